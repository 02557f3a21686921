#!/usr/bin/perl
# Reads messages as Perl's mail libraries do: perl read.pl DIALECT
#
# Each line of the input is a message in base64, each line of the output what is read of it, in JSON: {"authors": [...],
# "author_text": "...", "fields": [[name, value], ...], "error": "..."}. Octets are shown as UTF-8 where they are, else as
# Latin-1.
use strict;
use warnings;
use JSON::PP;
use MIME::Base64 qw(decode_base64);

my %dialects = (
    # Email::MIME, whose addresses come from Email::Address::XS.
    'email-mime' => sub {
        require Email::MIME;
        return sub {
            my ($text, $reading) = @_;
            my $message = Email::MIME->new($text);
            my @pairs = $message->header_obj->header_raw_pairs;
            while (my ($name, $value) = splice @pairs, 0, 2) { push @{ $reading->{fields} }, [ $name, $value ] }
            $reading->{author_text} = $message->header_str('From') // '';
            my $list = $message->header_as_obj('From');
            $reading->{authors} = [ grep { defined } map { $_->address } $list ? $list->addresses : () ];
        };
    },
    # Mail::Message and its method `from`, which reads by Mail::Address.
    'mail-message' => sub {
        require Mail::Message;
        return sub {
            my ($text, $reading) = @_;
            my $message = mail_message($text, $reading);
            my $from = $message->head->get('From');
            $reading->{author_text} = $from ? $from->unfoldedBody : '';
            $reading->{authors} = [ grep { defined && length } map { $_->address } $message->from ];
        };
    },
    # Mail::Message and its full reading of the field.
    'mail-message-full' => sub {
        require Mail::Message;
        require Mail::Message::Field::Full;
        return sub {
            my ($text, $reading) = @_;
            my $message = mail_message($text, $reading);
            my $from = $message->study('From') or return;
            $reading->{author_text} = $from->decodedBody;
            $reading->{authors} = [ grep { defined } map { $_->address } $from->addresses ];
        };
    },
);

sub mail_message {
    my ($text, $reading) = @_;
    my $message = Mail::Message->read($text, strip_status_fields => 0);
    my @fields = $message->head->orderedFields;
    pop @fields if @fields && $fields[-1]->unfoldedBody =~ /^<mailbox-\d+-\d+-\d+\@/;    # it gives each one a Message-ID
    push @{ $reading->{fields} }, [ $_->Name, $_->unfoldedBody ] for @fields;
    return $message;
}

# What is shown of a value in which octets may have stayed octets.
sub shown {
    my ($value) = @_;
    if (ref $value eq 'ARRAY') { return [ map { shown($_) } @$value ] }
    my $octets = $value;
    return utf8::downgrade($octets, 1) && utf8::decode($octets) ? $octets : $value;
}

my $read = $dialects{ $ARGV[0] }->();
my $json = JSON::PP->new->ascii->canonical;
$SIG{__WARN__} = sub { };    # they warn of what is odd, and that is all there is here
open my $silent, '>', '/dev/null' or die;
open my $output, '>&', \*STDOUT or die;
open STDOUT, '>&', $silent or die;
while (my $line = <STDIN>) {
    my %reading = (authors => [], author_text => '', fields => [], error => '');
    eval { $read->(decode_base64($line), \%reading); 1 } or $reading{error} = "$@";
    $reading{$_} = shown($reading{$_}) for keys %reading;
    print {$output} $json->encode(\%reading), "\n";
}
