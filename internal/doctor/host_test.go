package doctor_test

import (
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/mlxctl/mlxctl/internal/bootstrap/plan"
	"github.com/mlxctl/mlxctl/internal/cluster"
	"github.com/mlxctl/mlxctl/internal/doctor"
)

func ips(list ...string) []netip.Addr {
	var out []netip.Addr
	for _, s := range list {
		out = append(out, netip.MustParseAddr(s))
	}
	return out
}

func TestMergeMakesOneOfOne(t *testing.T) {
	t.Parallel()
	state := &cluster.Node{ID: "n1", Name: "studio", State: cluster.NodeReady}
	got := doctor.Merge([]doctor.Host{
		{Name: "Zoe", Self: true},
		{Name: "studio", State: state, Node: "n1", Admitted: true, Sources: []string{doctor.SourceCluster}},
		{Name: "Fred’s Mac Studio", HostName: "Studio.local", Addresses: ips("10.0.0.7", "fe80::1%en0"), RemoteLogin: true, Sources: []string{doctor.SourceBonjour}},
		{Name: "10.0.1.7", Addresses: ips("10.0.1.7"), Sources: []string{doctor.SourceConfig}},
		{Name: "other", Addresses: ips("fe80::1%en0"), Sources: []string{doctor.SourceBonjour}},
		{Name: "studio", Node: "n1", HostName: "studio.local", Addresses: ips("10.0.1.7"), Admitted: true, Sources: []string{doctor.SourceRoster}},
		{Name: "me", HostName: "me.local", Self: true, Sources: []string{doctor.SourceBonjour}},
		{Name: "twin", Node: "n2", Addresses: ips("10.0.0.7"), Admitted: true, Sources: []string{doctor.SourceRoster}},
	})
	var names []string
	for _, h := range got {
		names = append(names, h.Name)
	}
	if !slices.Equal(names, []string{"Zoe", "other", "studio", "twin"}) {
		t.Fatalf("got %q: %+v", names, got)
	}
	s := got[2]
	for _, source := range []string{doctor.SourceCluster, doctor.SourceBonjour, doctor.SourceConfig, doctor.SourceRoster} {
		if !s.From(source) {
			t.Errorf("%s is lost: %+v", source, s)
		}
	}
	if s.State != state || !s.RemoteLogin || !s.Admitted || len(s.Addresses) != 3 {
		t.Errorf("got %+v", s)
	}
	if got[0].HostName != "me.local" {
		t.Errorf("this Mac: %+v", got[0])
	}
}

func TestServing(t *testing.T) {
	t.Parallel()
	at := time.Date(2026, 11, 28, 12, 0, 0, 0, time.UTC)
	up := doctor.Cluster{Up: true, Version: "v2", At: at}
	in := func(state cluster.NodeState, version, reason string) doctor.Host {
		return doctor.Host{Name: "studio", Admitted: true, State: &cluster.Node{
			Name: "studio", State: state, Version: version, Reason: reason, LastSeen: at.Add(-7 * time.Second), Models: make([]cluster.Model, 2),
		}}
	}
	seen := []string{doctor.SourceBonjour}
	for name, test := range map[string]struct {
		host  doctor.Host
		c     doctor.Cluster
		state plan.FindingKind
		part  string
	}{
		"ready":            {in(cluster.NodeReady, "v2", ""), up, plan.FindingOK, "serving; 0 models in memory, 2 on disk"},
		"version skew":     {in(cluster.NodeReady, "v1", ""), up, plan.FindingWarn, "with version v1; the controller has v2"},
		"draining":         {in(cluster.NodeDraining, "v2", "on request"), up, plan.FindingWarn, "draining: it takes nothing new: on request"},
		"suspect":          {in(cluster.NodeSuspect, "v2", "heartbeats are late"), up, plan.FindingFail, "suspect, last heard 7s ago: heartbeats are late"},
		"joining":          {in(cluster.NodeJoining, "v2", ""), up, plan.FindingWarn, "not proven"},
		"down":             {in(cluster.NodeDown, "v2", ""), up, plan.FindingFail, "down, last heard 7s ago"},
		"not heard of":     {doctor.Host{Name: "a", Admitted: true}, up, plan.FindingFail, "has not heard of it"},
		"no controller":    {doctor.Host{Name: "a", Admitted: true}, doctor.Cluster{}, plan.FindingSkip, "does not answer"},
		"Remote Login off": {doctor.Host{Name: "a", Sources: seen}, up, plan.FindingWarn, "Remote Login is off"},
		"never admitted":   {doctor.Host{Name: "a", RemoteLogin: true, Sources: seen}, up, plan.FindingWarn, "never been admitted"},
		"named":            {doctor.Host{Name: "a", Sources: []string{doctor.SourceConfig}}, up, plan.FindingFail, "the configuration names it"},
		"this Mac":         {doctor.Host{Name: "a", Self: true}, up, plan.FindingWarn, "no agent runs on this Mac"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			has(t, []plan.Finding{test.host.Serving(test.c)}, test.state, test.part)
		})
	}
}

func TestMulticast(t *testing.T) {
	t.Parallel()
	has(t, []plan.Finding{doctor.Multicast(1, 3, nil)}, plan.FindingOK, "1 other Mac answered")
	has(t, []plan.Finding{doctor.Multicast(2, 4, []string{"a", "b"})}, plan.FindingWarn, "2 other Macs answered, but not a, b")
	has(t, []plan.Finding{doctor.Multicast(0, 3, []string{"a"})}, plan.FindingWarn, "though a serves: multicast is filtered")
	has(t, []plan.Finding{doctor.Multicast(0, 3, nil)}, plan.FindingWarn, "of 3 Macs that are known")
	has(t, []plan.Finding{doctor.Multicast(0, 0, nil)}, plan.FindingWarn, "none is on this network")
}
