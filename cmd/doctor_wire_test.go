package cmd

import (
	"net/netip"
	"testing"

	"github.com/mlxctl/mlxctl/internal/bonjour"
	"github.com/mlxctl/mlxctl/internal/bootstrap"
	"github.com/mlxctl/mlxctl/internal/bootstrap/sighting"
	"github.com/mlxctl/mlxctl/internal/config"
	"github.com/mlxctl/mlxctl/internal/doctor"
	"github.com/mlxctl/mlxctl/internal/roster"
)

// The key of a node is known by the name that it was admitted under, whatever Bonjour or the settings call the host at its
// address.
func TestDoctorReachesNodesByTheNameTheyWereGiven(t *testing.T) {
	t.Parallel()
	hosts := sighting.Merge([]*bootstrap.Host{
		sighting.OfMac(bonjour.Mac{Name: "x", HostName: "x.local", Addrs: []netip.Addr{netip.MustParseAddr("10.0.0.5")}}, ""),
		hostNamed("anna@x.local"), hostOfNode(roster.Node{ID: "n-attic", Name: "attic", Host: "10.0.0.5", User: "fred"}),
	}, nil)
	if len(hosts) != 1 {
		t.Fatalf("hosts are %+v, want one", hosts)
	}
	if got := (sshInspector{}).target(doctor.Host{Host: hosts[0]}, &config.Config{}); got.Host != "10.0.0.5" || got.User != "fred" {
		t.Errorf("it is reached as %s@%s", got.User, got.Host)
	}
}
