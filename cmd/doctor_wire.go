package cmd

import (
	"context"
	"slices"

	"github.com/mlxctl/mlxctl/internal/bootstrap"
	"github.com/mlxctl/mlxctl/internal/bootstrap/plan"
	"github.com/mlxctl/mlxctl/internal/cluster"
	"github.com/mlxctl/mlxctl/internal/config"
	"github.com/mlxctl/mlxctl/internal/doctor"
	"github.com/mlxctl/mlxctl/internal/roster"
)

// wiredSurroundings joins SSH and the hosts of the settings to doctor.
func (d *deps) wiredSurroundings() surroundings {
	return surroundings{Inspector: sshInspector{d}, Named: func(cfg *config.Config) []string { return cfg.Hosts }}
}

// sshInspector looks at hosts over SSH. It asks nobody for a secret: several hosts are looked at at once, and what cannot be
// reached without asking is a finding.
type sshInspector struct{ d *deps }

func (s sshInspector) Inspect(ctx context.Context, h doctor.Host) []plan.Finding {
	cfg, err := s.d.config(nil)
	if err != nil {
		return []plan.Finding{doctor.Failure("ssh", "", err)}
	}
	b, err := bootstrap.New(bootstrap.Options{
		StateDir: cfg.Dirs.Home, Transport: cfg.SSH.Transport, Env: s.d.env, Log: s.d.log(),
		Hardware: plan.HardwareHash(s.d.hardware(ctx)),
	})
	if err != nil {
		return []plan.Finding{doctor.Failure("ssh", "", err)}
	}
	defer b.Close()
	host := b.Probe(ctx, s.target(h, cfg))
	found := host.Findings
	if host.Key.State == bootstrap.KeyNew {
		return append(found, plan.Finding{
			Check: "host-key", State: plan.FindingWarn, Message: "nobody agreed to its key " + host.Key.Fingerprint + " yet", Fix: "mlxctl up",
		})
	}
	if !host.Ready() {
		return found
	}
	if f := ownerFinding(host, clusterIDOf(cfg.Dirs.Home)); f != nil {
		return append(found, *f)
	}
	checks, err := b.Check(ctx, host, plan.Order{Home: h.Home, Operator: operatorName()})
	if err != nil {
		e := cluster.AsError(err)
		return append(found, plan.Finding{Check: "host", State: plan.FindingSkip, Message: e.Message, Fix: e.Hint})
	}
	return bothSides(found, doctor.JudgeClock(checks, host.Facts.Skew, host.Facts.SkewError))
}

// ownerFinding says that a host is a node of another cluster; nil where it is not known to be one.
func ownerFinding(h *bootstrap.Host, clusterID string) *plan.Finding {
	if !h.Facts.Owner.IsOfAnother(clusterID) {
		return nil
	}
	p := &planItem{host: h}
	if h.Node != "" {
		p.node = &roster.Node{ID: h.Node}
	}
	return &plan.Finding{Check: "cluster", State: plan.FindingFail, Message: h.Label() + " " + ofAnother(h.Facts.Owner), Fix: takeOverFix(p)}
}

// bothSides joins what SSH saw of a host with what the host says of itself, which knows better where both looked.
func bothSides(seen, said []plan.Finding) []plan.Finding {
	out := slices.DeleteFunc(slices.Clone(seen), func(f plan.Finding) bool {
		return slices.ContainsFunc(said, func(x plan.Finding) bool { return x.Check == f.Check && x.State != plan.FindingSkip })
	})
	return bootstrap.OneCause(append(out, said...))
}

func (s sshInspector) target(h doctor.Host, cfg *config.Config) bootstrap.Target {
	t := h.Target
	t.Host, t.User = first(t.Host, t.Name), first(t.User, cfg.SSH.User)
	return t
}
