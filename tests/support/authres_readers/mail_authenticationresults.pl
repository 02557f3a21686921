# Mail::AuthenticationResults as a reader. A line in: an Authentication-Results field in hexadecimal digits. A line out:
# its results as JSON, or null where it can't be read.
use strict;
use warnings;
use JSON::PP;
use Mail::AuthenticationResults::Parser;

my $json = JSON::PP->new->canonical->latin1;
$| = 1;
while ( my $line = <STDIN> ) {
    chomp $line;
    my $read = eval { Mail::AuthenticationResults::Parser->new( pack 'H*', $line )->parsed };
    my @results;
    for my $entry ( grep { ref =~ /::Entry$/ } @{ $read ? $read->children : [] } ) {
        my %properties = map { $_->key => $_->value } grep { ref =~ /::SubEntry$/ } @{ $entry->children };
        my $reason = delete $properties{reason};
        push @results, [ $entry->key, $entry->value, defined $reason ? $reason : '', \%properties ];
    }
    print $json->encode( $read ? \@results : undef ), "\n";
}
