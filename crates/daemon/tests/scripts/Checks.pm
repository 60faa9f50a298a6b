# What scripts on libvirt's Perl binding have in common.

package Checks;

use strict;
use warnings;
use Exporter "import";
use Sys::Virt;
use Sys::Virt::Event;

our @EXPORT = qw(same like refused names hears_until);

sub same {
    my ($what, $found, $expected) = @_;
    $_ = join(" ", map { $_ // "undef" } ref $_ ? @$_ : $_) for $found, $expected;
    die "$what: '$found' instead of '$expected'\n" unless $found eq $expected;
}

sub like {
    my ($what, $found, $expected) = @_;
    die "$what: '$found' has no '$expected'\n" unless index($found, $expected) >= 0;
}

# Code, domain and level of a refusal, and how its message begins.
sub refused {
    my ($what, $codes, $message, $action) = @_;
    eval { $action->(); 1 } and die "$what: not refused\n";
    my $error = $@;
    die "$what: $error\n" unless ref $error eq "Sys::Virt::Error";
    # Its own level() gives the code.
    same($what, [$error->code, $error->domain, $error->{level}], $codes);
    die "$what: " . $error->message . "\n" unless index($error->message, $message) == 0;
}

sub names { [sort map { $_->get_name } @_] }

# Hears what is told until that is so; $told says what was told.
sub hears_until {
    my ($is_so, $told) = @_;
    local $SIG{ALRM} = sub { die "heard (" . $told->() . ")\n" };
    alarm 60;
    Sys::Virt::Event::run_default() until $is_so->();
    alarm 0;
}

1;
