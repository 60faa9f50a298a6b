# libvirt's Perl binding against the daemons of interfaces and of node devices: host.pl INTERFACES NODE_DEVICES READ_ONLY, the
# URIs of the two and of the second one's for readers, on a host with a link eth1 that is up and has the address
# 52:54:00:00:00:01, and one, eth2, that is not.

use strict;
use warnings;
use FindBin;
use lib $FindBin::Bin;
use Checks;
use Sys::Virt;
use Sys::Virt::Error;
use Sys::Virt::Event;
use Sys::Virt::Interface;
use Sys::Virt::NodeDevice;

my ($interfaces, $devices, $read_only) = @ARGV;
my ($mac, $level) = ("52:54:00:00:00:01", Sys::Virt::Error::LEVEL_ERROR);
my ($of_interfaces, $of_devices) = (Sys::Virt::Error::FROM_INTERFACE, Sys::Virt::Error::FROM_NODEDEV);
Sys::Virt::Event::register_default();

# Interfaces.
my $conn = Sys::Virt->new(uri => $interfaces);
my ($up, $down) = (Sys::Virt::Interface::LIST_ACTIVE, Sys::Virt::Interface::LIST_INACTIVE);
same("all", names($conn->list_all_interfaces), ["eth1", "eth2", "lo"]);
same("those up", names($conn->list_all_interfaces($up)), ["eth1", "lo"]);
same("those down", names($conn->list_all_interfaces($down)), ["eth2"]);
same("up, the old way", names($conn->list_interfaces), ["eth1", "lo"]);
same("down, the old way", names($conn->list_defined_interfaces), ["eth2"]);
same("their number", [$conn->num_of_interfaces, $conn->num_of_defined_interfaces], [2, 1]);
same("their names", [sort($conn->list_interface_names(9)), $conn->list_defined_interface_names(9)], ["eth1", "lo", "eth2"]);
my $eth1 = $conn->get_interface_by_name("eth1");
same("it", [$eth1->get_mac, $eth1->is_active ? 1 : 0], [$mac, 1]);
same("by address", $conn->get_interface_by_mac($mac)->get_name, "eth1");
like("its document", $eth1->get_xml_description, "<interface type='ethernet' name='eth1'>");
same("another's state", $conn->get_interface_by_name("eth2")->is_active ? 1 : 0, 0);
my @none = (Sys::Virt::Error::ERR_NO_INTERFACE, $of_interfaces, $level);
refused("no such name", [@none], "Interface not found", sub { $conn->get_interface_by_name("eth9") });
refused("no such address", [@none], "Interface not found", sub { $conn->get_interface_by_mac("52:54:00:00:00:99") });
my @unsupported = (Sys::Virt::Error::ERR_NO_SUPPORT, $of_interfaces, $level);
for my $change (
    sub { $eth1->destroy },
    sub { $eth1->undefine },
    sub { $conn->interface_change_begin },
    sub { $conn->define_interface("<interface type='ethernet' name='eth3'/>") },
) {
    refused("a change", [@unsupported], "this function is not supported by the connection driver", $change);
}

# Node devices.
$conn = Sys::Virt->new(uri => $devices);
my $name = "net_eth1_52_54_00_00_00_01";
my $nets = Sys::Virt::NodeDevice::LIST_CAP_NET;
same("devices", names(grep { $_->get_name =~ /eth/ } $conn->list_all_node_devices($nets)), [
    $name, "net_eth2_52_54_00_00_00_02",
]);
same("the old way", scalar(grep { $_->get_name eq $name } $conn->list_node_devices("net")), 1);
my @names = $conn->list_node_device_names("net", 99);
same("their number", $conn->num_of_node_devices("net"), scalar @names);
my $device = $conn->get_node_device_by_name($name);
same("it can be", [$device->list_capabilities], ["net"]);
same("it is", [map { $_ ? 1 : 0 } $device->is_active, $device->is_persistent], [1, 0]);
same("it hangs on", $device->get_parent, "computer");
like("its document", $device->get_xml_description, "<address>$mac</address>");
refused("no such device", [Sys::Virt::Error::ERR_NO_NODE_DEVICE, $of_devices, $level], "Node device not found", sub {
    $conn->get_node_device_by_name("net_eth9");
});
# Readers can only read.
my $reader = Sys::Virt->new(uri => $read_only, readonly => 1);
same("a reader's", $reader->get_node_device_by_name($name)->get_name, $name);

# What comes, changes and goes is told.
my @told;
my @lifecycle = (Sys::Virt::NodeDevice::EVENT_CREATED, Sys::Virt::NodeDevice::EVENT_DELETED);
my $life = $conn->node_device_event_register_any(undef, Sys::Virt::NodeDevice::EVENT_ID_LIFECYCLE, sub {
    my ($conn, $device, $event, $detail) = @_;
    push @told, $device->get_name . " $event" if $device->get_name =~ /eth7/;
});
my $changes = $conn->node_device_event_register_any(undef, Sys::Virt::NodeDevice::EVENT_ID_UPDATE, sub {
    my ($conn, $device) = @_;
    push @told, $device->get_name . " update" if $device->get_name =~ /eth7/;
});
my $seventh = "net_eth7_52_54_00_00_00_07";
my $hears = sub {
    my ($what) = @_;
    hears_until(sub { grep { $_ eq $what } @told }, sub { "@told instead of $what" });
};
system("ip link add eth7 address 52:54:00:00:00:07 type veth peer name peer7") == 0 or die "no link";
$hears->("$seventh $lifecycle[0]");
@told = ();
system("ip link set eth7 up") == 0 or die "not up";
$hears->("$seventh update");
system("ip link del eth7") == 0 or die "not gone";
$hears->("$seventh $lifecycle[1]");
$conn->node_device_event_deregister_any($_) for $life, $changes;
