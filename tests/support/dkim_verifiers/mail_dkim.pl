# Mail::DKIM as a verifier. A line in: the message and the key record, each in hexadecimal digits. A line out: the result.
# With "arc" as its argument it validates the ARC chain in place of DKIM signatures.
use strict;
use warnings;
use Mail::DKIM::Verifier;
use Mail::DKIM::ARC::Verifier;
use Mail::DKIM::DNS;
use Net::DNS;

my $key;

# Mail::DKIM has no way in for a TXT record's own octets, so its one question to the DNS is answered here.
{
    no warnings 'redefine';
    *Mail::DKIM::DNS::query = sub { return bless {}, 'Record' };
}
sub Record::type    { return 'TXT' }
sub Record::txtdata { return ($key) }

my $class = @ARGV && $ARGV[0] eq 'arc' ? 'Mail::DKIM::ARC::Verifier' : 'Mail::DKIM::Verifier';
$| = 1;
while ( my $line = <STDIN> ) {
    chomp $line;
    my ( $message, $record ) = map { pack 'H*', $_ } split /\t/, $line, -1;
    $key = $record;
    my $result = eval {
        my $verifier = $class->new;
        $verifier->PRINT($message);
        $verifier->CLOSE;
        $verifier->result;
    };
    print defined $result ? $result : 'raises', "\n";
}
