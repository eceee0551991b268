package doctor_test

import (
	"testing"
	"time"

	"github.com/mlxctl/mlxctl/internal/bootstrap"
	"github.com/mlxctl/mlxctl/internal/bootstrap/plan"
	"github.com/mlxctl/mlxctl/internal/cluster"
	"github.com/mlxctl/mlxctl/internal/doctor"
)

// seen is a host of which those sources tell.
func seen(sources ...string) *bootstrap.Host {
	return &bootstrap.Host{Target: bootstrap.Target{Name: "a"}, Sources: sources}
}

func TestServing(t *testing.T) {
	t.Parallel()
	at := time.Date(2026, 11, 28, 12, 0, 0, 0, time.UTC)
	up := doctor.Cluster{Up: true, Version: "v2", At: at}
	in := func(state cluster.NodeState, version, reason string) doctor.Host {
		return doctor.Host{Host: seen(bootstrap.SourceRoster), State: &cluster.Node{
			Name: "studio", State: state, Version: version, Reason: reason, LastSeen: at.Add(-7 * time.Second), Models: make([]cluster.Model, 2),
		}}
	}
	empty := in(cluster.NodeDraining, "v2", "")
	empty.State.Drained = true
	never := &cluster.Node{Name: "mini", State: cluster.NodeDown, Reason: "not heard of yet"}
	open, self := seen(bootstrap.SourceBonjour), seen(bootstrap.SourceLocal)
	open.RemoteLogin, self.Self = true, true
	for name, test := range map[string]struct {
		host  doctor.Host
		c     doctor.Cluster
		state plan.FindingKind
		part  string
	}{
		"ready":            {in(cluster.NodeReady, "v2", ""), up, plan.FindingOK, "serving; 0 models in memory, 2 on disk"},
		"version skew":     {in(cluster.NodeReady, "v1", ""), up, plan.FindingWarn, "with version v1; the controller has v2"},
		"draining":         {in(cluster.NodeDraining, "v2", "on request"), up, plan.FindingWarn, "draining: it takes nothing new: on request"},
		"drained":          {empty, up, plan.FindingWarn, "drained: it takes nothing new"},
		"suspect":          {in(cluster.NodeSuspect, "v2", "heartbeats are late"), up, plan.FindingFail, "suspect, last heard 7s ago: heartbeats are late"},
		"joining":          {in(cluster.NodeJoining, "v2", ""), up, plan.FindingWarn, "not proven"},
		"down":             {in(cluster.NodeDown, "v2", ""), up, plan.FindingFail, "down, last heard 7s ago"},
		"not heard of":     {doctor.Host{Host: seen(bootstrap.SourceRoster)}, up, plan.FindingFail, "never heard of"},
		"never came up":    {doctor.Host{Host: seen(bootstrap.SourceRoster), State: never}, up, plan.FindingFail, "it is a node, and was never heard of"},
		"joined halfway":   {doctor.Host{Host: seen(bootstrap.SourceRoster), State: never, By: "token"}, up, plan.FindingFail, "joined by a token, and was never heard of"},
		"no controller":    {doctor.Host{Host: seen(bootstrap.SourceRoster)}, doctor.Cluster{}, plan.FindingSkip, "does not answer"},
		"Remote Login off": {doctor.Host{Host: seen(bootstrap.SourceBonjour)}, up, plan.FindingWarn, "Remote Login is off"},
		"never admitted":   {doctor.Host{Host: open}, up, plan.FindingWarn, "never been admitted"},
		"named":            {doctor.Host{Host: seen(bootstrap.SourceConfig)}, up, plan.FindingFail, "the configuration names it"},
		"this Mac":         {doctor.Host{Host: self}, up, plan.FindingWarn, "no agent runs on this machine"},
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
