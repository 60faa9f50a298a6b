# libvirt's Perl binding against the daemon of networks: networks.pl URI READ_ONLY_URI NETWORK MAC, where a network of that
# name has given a lease to that address.

use strict;
use warnings;
use FindBin;
use lib $FindBin::Bin;
use Checks;
use Sys::Virt;
use Sys::Virt::Event;
use Sys::Virt::Network;
use Sys::Virt::NetworkPort;

my ($uri, $read_only_uri, $leased, $mac) = @ARGV;

sub uuid { sprintf "00000000-0000-4000-8000-%012d", shift }

sub xml {
    my ($name, $number) = @_;
    return "<network><name>$name</name><uuid>" . uuid($number) . "</uuid><bridge name='br$number'/>"
        . "<ip address='10.$number.0.1' netmask='255.255.255.0'>"
        . "<dhcp><range start='10.$number.0.10' end='10.$number.0.20'/></dhcp></ip></network>";
}

my ($network, $error) = (Sys::Virt::Error::FROM_NETWORK, Sys::Virt::Error::LEVEL_ERROR);

Sys::Virt::Event::register_default();
my $conn = Sys::Virt->new(uri => $uri);
same("type", $conn->get_type, "Network") if $conn->get_type ne "network";
same("version", $conn->get_library_version, 9000000) if $conn->get_library_version < 9000000;
same("life", [$conn->is_alive ? 1 : 0, $conn->is_secure ? 1 : 0, $conn->is_encrypted ? 1 : 0], [1, 1, 0]);
$conn->set_identity({ Sys::Virt::IDENTITY_USER_NAME() => "root" });

# What happens is told.
my @events;
my $listener = $conn->network_event_register_any(undef, Sys::Virt::Network::EVENT_ID_LIFECYCLE, sub {
    my ($conn, $net, $event, $detail) = @_;
    push @events, $net->get_name . " $event";
});
sub hears {
    my @expected = @_;
    hears_until(sub { @events >= @expected }, sub { "@events instead of @expected" });
    same("events", \@events, \@expected);
    @events = ();
}

# A network's life.
my $red = $conn->define_network(xml("red", 1));
same("new", [map { $_ ? 1 : 0 } $red->is_active, $red->is_persistent, $red->get_autostart], [0, 1, 0]);
same("name", [$red->get_name, $red->get_uuid_string, $red->get_bridge_name], ["red", uuid(1), "br1"]);
$red->set_autostart(1);
same("autostart", $red->get_autostart, 1);
$red->create;
my $blue = $conn->create_network(xml("blue", 2));
same("transient", $blue->is_persistent ? 1 : 0, 0);
hears("red " . Sys::Virt::Network::EVENT_DEFINED, "red " . Sys::Virt::Network::EVENT_STARTED,
    "blue " . Sys::Virt::Network::EVENT_STARTED);
same("all", names($conn->list_all_networks), ["blue", $leased, "red"]);
same("transient ones", names($conn->list_all_networks(Sys::Virt::Network::LIST_TRANSIENT)), ["blue"]);
same("active ones", names($conn->list_networks), ["blue", $leased, "red"]);
same("their number", [$conn->num_of_networks, $conn->num_of_defined_networks], [3, 0]);
same("their names", [sort $conn->list_network_names(10)], ["blue", $leased, "red"]);
same("inactive ones", [$conn->list_defined_networks, $conn->list_defined_network_names(10)], []);
same("by name", $conn->get_network_by_name("red")->get_uuid_string, uuid(1));
same("by UUID", $conn->get_network_by_uuid($red->get_uuid)->get_name, "red");

# Updates.
my ($add, $hosts) = (Sys::Virt::Network::UPDATE_COMMAND_ADD_LAST, Sys::Virt::Network::SECTION_IP_DHCP_HOST);
my $host = "<host mac='52:54:00:00:00:09' name='nine' ip='10.1.0.19'/>";
my $both = Sys::Virt::Network::UPDATE_AFFECT_LIVE | Sys::Virt::Network::UPDATE_AFFECT_CONFIG;
$red->update($add, $hosts, 0, $host, $both);
like($_ ? "definition" : "live", $red->get_xml_description($_), "name='nine'") for 0, Sys::Virt::Network::XML_INACTIVE;

# Leases.
my ($lease) = $conn->get_network_by_name($leased)->get_dhcp_leases;
same("lease", [$lease->{mac}, $lease->{type}, $lease->{prefix}], [$mac, 0, 24]);
same("nobody's lease", [$conn->get_network_by_name($leased)->get_dhcp_leases("52:54:00:99:99:99")], []);

# Ports.
my $guest = "<owner><name>web</name><uuid>06578fc1-c686-46fa-bc2c-83893b466a6d</uuid></owner>";
my $port = $red->create_port(
    "<networkport><uuid>" . uuid(77) . "</uuid>$guest<mac address='52:54:00:7b:35:93'/></networkport>");
same("port", $port->get_uuid_string, uuid(77));
like("port", $port->get_xml_description, "<plug type='network' bridge='br1'/>");
my $average = Sys::Virt::NetworkPort::BANDWIDTH_IN_AVERAGE;
$port->set_parameters({ $average => 100 });
same("rate", $port->get_parameters->{$average}, 100);
same("ports", [map { $_->get_uuid_string } $red->list_all_ports], [uuid(77)]);
same("port by UUID", $red->get_port_by_uuid($port->get_uuid)->get_uuid_string, uuid(77));
$port->delete;
refused("a port that is gone", [Sys::Virt::Error::ERR_NO_NETWORK_PORT, $network, $error], "network port not found: ",
    sub { $red->get_port_by_uuid($port->get_uuid) });

# Mistakes.
refused("no network", [Sys::Virt::Error::ERR_NO_NETWORK, $network, $error], "Network not found: ",
    sub { $conn->get_network_by_name("green") });
refused("twice", [Sys::Virt::Error::ERR_OPERATION_INVALID, $network, $error], "Requested operation is not valid: ",
    sub { $red->create });
refused("no XML", [Sys::Virt::Error::ERR_XML_DETAIL, $network, $error], "", sub { $conn->define_network("<network") });
my $reader = Sys::Virt->new(uri => $read_only_uri, readonly => 1);
refused("reading only", [Sys::Virt::Error::ERR_OPERATIONED_DENIED, $network, $error], "operation forbidden: ",
    sub { $reader->get_network_by_name("red")->destroy });

# And its end.
$_->destroy for $blue, $red;
$red->undefine;
hears("blue " . Sys::Virt::Network::EVENT_STOPPED, "red " . Sys::Virt::Network::EVENT_STOPPED,
    "red " . Sys::Virt::Network::EVENT_UNDEFINED);
$conn->network_event_deregister_any($listener);
same("at last", names($conn->list_all_networks), [$leased]);
