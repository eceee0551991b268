package bonjour_test

import (
	"context"
	"errors"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/mlxctl/mlxctl/internal/bonjour"
	"github.com/mlxctl/mlxctl/internal/cluster"
)

var ssh = []service{{kind: "_ssh._tcp", port: 22}, {kind: "_sftp-ssh._tcp", port: 22}}

func TestScanFindsMacs(t *testing.T) {
	t.Parallel()
	l := newLAN(t)
	operator := l.machine("op", []string{"lan0", "tb0"}, "10.88.0.1", "10.99.0.1")
	fred := l.machine("fred", []string{"en0", "en1"}, "10.88.0.2", "10.99.0.2")
	off := l.machine("off", []string{"en0"}, "10.88.0.3")
	linux := l.machine("linux", []string{"eth0"}, "10.88.0.4")
	fred.avahi("Freds-MacBook-Pro", "Fred’s MacBook Pro", append([]service{
		{kind: "_companion-link._tcp", port: 5000, text: []string{"rpMd=MacBookPro18,1"}},
	}, ssh...)...)
	off.avahi("mini", "mini", service{kind: "_airplay._tcp", port: 7000, text: []string{"model=Mac16,10"}})
	linux.avahi("box", "")

	got := operator.scan()
	want := []bonjour.Mac{
		{
			Name: "Fred’s MacBook Pro", HostName: "freds-macbook-pro.local", Port: 22, RemoteLogin: true, Model: "MacBookPro18,1",
			Addrs: []netip.Addr{
				netip.MustParseAddr("10.88.0.2"), netip.MustParseAddr("10.99.0.2"),
				fred.linkLocal("en0").WithZone("lan0"), fred.linkLocal("en1").WithZone("tb0"),
			},
			Seen: []string{"_ssh._tcp", "_sftp-ssh._tcp", "_companion-link._tcp"},
		},
		{
			Name: "box", HostName: "box.local", Seen: []string{"_workstation._tcp"},
			Addrs: []netip.Addr{netip.MustParseAddr("10.88.0.4"), linux.linkLocal("eth0").WithZone("lan0")},
		},
		{
			Name: "mini", HostName: "mini.local", Model: "Mac16,10", Seen: []string{"_airplay._tcp"},
			Addrs: []netip.Addr{netip.MustParseAddr("10.88.0.3"), off.linkLocal("en0").WithZone("lan0")},
		},
	}
	for i := range want {
		slices.SortFunc(want[i].Addrs[len(want[i].Addrs)/2:], netip.Addr.Compare)
	}
	compare(t, got.Macs, want)
	told := map[string]bonjour.Mac{}
	for _, m := range got.Found {
		if before, ok := told[m.Name]; ok && len(m.Addrs) == len(before.Addrs) && m.RemoteLogin == before.RemoteLogin && m.Model == before.Model {
			t.Errorf("%s was told again with nothing new: %+v", m.Name, m)
		}
		told[m.Name] = m
	}
	for _, m := range got.Macs {
		if now := told[m.Name]; now.RemoteLogin != m.RemoteLogin || now.Model != m.Model || !containsAll(now.Addrs, m.Addrs) {
			t.Errorf("last told of %s: %+v", m.Name, told[m.Name])
		}
	}
	var nothing any
	operator.ask(&nothing, "abandon")
}

func containsAll(list, want []netip.Addr) bool {
	return !slices.ContainsFunc(want, func(ip netip.Addr) bool { return !slices.Contains(list, ip) })
}

func TestForgedAdvertComesOutClean(t *testing.T) {
	t.Parallel()
	l := newLAN(t)
	operator := l.machine("op", []string{"lan0"}, "10.88.0.1")
	thief := l.machine("thief", []string{"eth0"}, "10.88.0.66")
	thief.start("forge", "10.88.0.66")
	compare(t, operator.scan().Macs, []bonjour.Mac{{
		Name: "Fred", Addrs: []netip.Addr{netip.MustParseAddr("10.88.0.66")}, Port: 22, RemoteLogin: true, Seen: []string{"_ssh._tcp"},
	}})
}

func TestFloodIsBoundedAndLeavesNothing(t *testing.T) {
	t.Parallel()
	l := newLAN(t)
	operator := l.machine("op", []string{"lan0"}, "10.88.0.1")
	thief := l.machine("thief", []string{"eth0"}, "10.88.0.66")
	thief.ip("route", "add", "224.0.0.0/4", "dev", "eth0")
	thief.start("flood")
	if got := operator.scan(); len(got.Macs) == 0 || len(got.Macs) > bonjour.MostEntries || got.Took > scanFor+time.Minute {
		t.Errorf("%d Macs in %v", len(got.Macs), got.Took)
	}
	var nothing any
	operator.ask(&nothing, "abandon")
}

func TestFilteredMulticastFindsNobody(t *testing.T) {
	t.Parallel()
	l := newLAN(t)
	operator := l.machine("op", []string{"lan0"}, "10.88.0.1")
	fred := l.machine("fred", []string{"en0"}, "10.88.0.2")
	fred.avahi("fred", "Fred", ssh...)
	operator.deaf()
	if got := operator.scan(); len(got.Macs) != 1 {
		t.Errorf("answers to this host alone do arrive, but got %+v", got)
	}
	fred.deaf()
	if got := operator.scan(); len(got.Macs) != 0 || got.Error != "" || got.Took < scanFor {
		t.Errorf("got %+v, want nobody and no error", got)
	}
}

func TestScanThatMayNotSendSaysSo(t *testing.T) {
	t.Parallel()
	l := newLAN(t)
	denied := l.machine("denied", []string{"lan0"}, "10.88.0.1")
	denied.run("iptables", "-A", "OUTPUT", "-p", "udp", "--dport", "5353", "-j", "DROP")
	denied.run("ip6tables", "-A", "OUTPUT", "-p", "udp", "--dport", "5353", "-j", "DROP")
	if got := denied.scan(); got.Error != "this machine does not let mlxctl speak on the local network: operation not permitted" {
		t.Errorf("got %+v", got)
	}
	alone := l.machine("alone", nil)
	if got := alone.scan(); got.Error == "" || got.Took >= scanFor {
		t.Errorf("got %+v, want an error at once", got)
	}
}

func TestControllerIsFoundAndFollowed(t *testing.T) {
	t.Parallel()
	l := newLAN(t)
	agent := l.machine("agent", []string{"lan0"}, "10.88.0.1")
	controller := l.machine("ctl", []string{"en0"}, "10.88.0.2")
	controller.start("advertise", "this-cluster")
	find := func(cluster string) []netip.AddrPort {
		var got []netip.AddrPort
		agent.ask(&got, "controllers", cluster)
		return got
	}
	await := func(what string) {
		t.Helper()
		want := []netip.AddrPort{netip.AddrPortFrom(netip.MustParseAddr(what), 8660), netip.AddrPortFrom(controller.linkLocal("en0").WithZone("lan0"), 8660)}
		var got []netip.AddrPort
		for deadline := time.Now().Add(time.Minute); time.Now().Before(deadline); {
			if got = find("this-cluster"); slices.Equal(got, want) {
				return
			}
		}
		t.Fatalf("got %v, want %v", got, want)
	}
	await("10.88.0.2")
	if got := find("other-cluster"); len(got) != 0 {
		t.Errorf("another cluster has controllers at %v", got)
	}
	controller.ip("addr", "del", "10.88.0.2/24", "dev", "en0")
	controller.ip("addr", "add", "10.88.0.9/24", "dev", "en0")
	await("10.88.0.9")
	for _, m := range agent.scan().Macs {
		t.Errorf("a controller's advert is no Mac: %+v", m)
	}
}

func TestAdvertNeedsItsParts(t *testing.T) {
	t.Parallel()
	err := bonjour.Advertise(t.Context(), bonjour.Advert{ClusterID: "c", Port: 1}, nil)
	if !errors.Is(err, &cluster.Error{Code: cluster.CodeInternal}) {
		t.Errorf("got %v", err)
	}
}

func TestScanEndsWithItsContext(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := bonjour.Scan(ctx, bonjour.ScanOptions{}); err == nil {
		t.Error("no error")
	}
}
