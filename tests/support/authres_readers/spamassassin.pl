# SpamAssassin's plugin AuthRes as a reader. A line in: an Authentication-Results field in hexadecimal digits. A line out:
# its results as JSON, or null where the field is dropped.
use strict;
use warnings;
use JSON::PP;
use Mail::SpamAssassin;
use Mail::SpamAssassin::Message;
use Mail::SpamAssassin::Plugin::AuthRes;

my $json   = JSON::PP->new->canonical->latin1;
my $plugin = bless {}, 'Mail::SpamAssassin::Plugin::AuthRes';
my %conf   = ( authres_trusted_authserv => {}, authres_ignored_authserv => {} );
$| = 1;
while ( my $line = <STDIN> ) {
    chomp $line;
    my $message = Mail::SpamAssassin::Message->new( { message => pack( 'H*', $line ) . "From: x\@example.org\r\n\r\n" } );
    my ($value) = $message->get_header('Authentication-Results');
    chomp $value;
    my $seen = { conf => \%conf };
    my $read = eval { $plugin->parse_authres( $seen, 'Authentication-Results', $value ) };
    my @results;
    my $parsed = $seen->{authres_parsed} || {};
    for my $method ( keys %$parsed ) {
        for my $each ( @{ $parsed->{$method} } ) {
            my %properties;
            for my $type ( keys %{ $each->{properties} } ) {
                $properties{"$type.$_"} = $each->{properties}{$type}{$_} for keys %{ $each->{properties}{$type} };
            }
            push @results, [ $method, $each->{result}, $each->{reason}, \%properties ];
        }
    }
    print $json->encode( $read ? \@results : undef ), "\n";
}
