package cmd

import (
	"net/netip"
	"testing"

	"github.com/mlxctl/mlxctl/internal/config"
	"github.com/mlxctl/mlxctl/internal/doctor"
	"github.com/mlxctl/mlxctl/internal/roster"
)

// The key of a node is known by the name that it was admitted under, whatever Bonjour calls the host at its address.
func TestDoctorReachesNodesByTheNameTheyWereGiven(t *testing.T) {
	t.Parallel()
	hosts := doctor.Merge([]doctor.Host{
		{Name: "x", HostName: "x.local", Addresses: []netip.Addr{netip.MustParseAddr("10.0.0.5")}, Sources: []string{doctor.SourceBonjour}},
		admittedHost(roster.Node{ID: "n-attic", Name: "attic", Host: "10.0.0.5"}),
	})
	if len(hosts) != 1 {
		t.Fatalf("hosts are %+v, want one", hosts)
	}
	if got := (sshInspector{}).target(hosts[0], &config.Config{}); got.Host != "10.0.0.5" {
		t.Errorf("it is reached as %q", got.Host)
	}
}
