package cmd

import (
	"context"
	"slices"

	"github.com/mlxctl/mlxctl/internal/bootstrap"
	bootplan "github.com/mlxctl/mlxctl/internal/bootstrap/plan"
	"github.com/mlxctl/mlxctl/internal/cluster"
	"github.com/mlxctl/mlxctl/internal/config"
	"github.com/mlxctl/mlxctl/internal/doctor"
)

// wiredSurroundings joins SSH and the hosts of the settings to doctor.
func (d *deps) wiredSurroundings() surroundings {
	return surroundings{Inspector: sshInspector{d}, Named: func(cfg *config.Config) []string { return cfg.Hosts }}
}

// sshInspector looks at hosts over SSH. It asks nobody for a secret: several hosts are looked at at once, and what cannot be
// reached without asking is a finding.
type sshInspector struct{ d *deps }

func (s sshInspector) Inspect(ctx context.Context, h doctor.Host) []bootplan.Finding {
	cfg, err := s.d.config(nil)
	if err != nil {
		return []bootplan.Finding{doctor.Failure("ssh", "", err)}
	}
	b, err := bootstrap.New(bootstrap.Options{
		StateDir: cfg.Dirs.Home, Transport: cfg.SSH.Transport, Env: s.d.env, Log: s.d.log(),
		Hardware: bootplan.HardwareHash(s.d.hardware(ctx)),
	})
	if err != nil {
		return []bootplan.Finding{doctor.Failure("ssh", "", err)}
	}
	defer b.Close()
	host := b.Probe(ctx, []bootstrap.Target{s.target(h, cfg)}, nil)[0]
	found := host.Findings
	if host.Key.State == bootstrap.KeyNew {
		return append(found, bootplan.Finding{
			Check: "host-key", State: bootplan.FindingWarn, Message: "nobody agreed to its key " + host.Key.Fingerprint + " yet", Fix: "mlxctl up",
		})
	}
	if !host.Ready() {
		return found
	}
	checks, err := b.Check(ctx, host, bootplan.Order{Home: h.Home, Operator: operatorName()})
	if err != nil {
		e := cluster.AsError(err)
		return append(found, bootplan.Finding{Check: "host", State: bootplan.FindingSkip, Message: e.Message, Fix: e.Hint})
	}
	return bothSides(found, doctor.JudgeClock(checks, host.Facts.Skew, host.Facts.SkewError))
}

// bothSides joins what SSH saw of a host with what the host says of itself, which knows better where both looked.
func bothSides(seen, said []bootplan.Finding) []bootplan.Finding {
	out := slices.DeleteFunc(slices.Clone(seen), func(f bootplan.Finding) bool {
		return slices.ContainsFunc(said, func(x bootplan.Finding) bool { return x.Check == f.Check && x.State != bootplan.FindingSkip })
	})
	return oneCause(append(out, said...))
}

func (s sshInspector) target(h doctor.Host, cfg *config.Config) bootstrap.Target {
	t := bootstrap.Target{
		Name: h.Name, Host: first(h.Named, h.HostName, h.Name), Port: h.Port, User: first(h.User, cfg.SSH.User), Node: h.Node,
	}
	for _, a := range h.Addresses {
		t.Addresses = append(t.Addresses, a.String())
	}
	return t
}
