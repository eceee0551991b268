package cmd

import (
	"context"
	"time"

	"github.com/mlxctl/mlxctl/internal/bonjour"
	"github.com/mlxctl/mlxctl/internal/bootstrap"
	bootplan "github.com/mlxctl/mlxctl/internal/bootstrap/plan"
	"github.com/mlxctl/mlxctl/internal/roster"
	"github.com/mlxctl/mlxctl/mlxbridge"
	"github.com/mlxctl/mlxctl/mlxbridge/worker"
)

// wiredParts joins discovery, SSH and the list of admitted nodes to the commands.
func (d *deps) wiredParts() parts {
	return parts{
		finder:    func() macFinder { return bonjourFinder{d} },
		installer: d.newSSHInstaller,
		roster:    func(path string) admitted { return roster.Open(path) },
		liveKey:   d.liveKey,
		services:  startServices,
	}
}

// bonjourFinder asks the local network.
type bonjourFinder struct{ d *deps }

func (f bonjourFinder) Scan(ctx context.Context, length time.Duration, found func(foundMac)) error {
	_, err := bonjour.Scan(ctx, bonjour.ScanOptions{For: length, Log: f.d.log(), Found: func(m bonjour.Mac) {
		found(foundMac{
			Name: m.Name, HostName: m.HostName, Addresses: m.Addrs, Port: m.Port, RemoteLogin: m.RemoteLogin, Model: m.Model,
		})
	}})
	return err
}

// sshInstaller reaches hosts over SSH.
type sshInstaller struct {
	*bootstrap.Bootstrap
	d     *deps
	cache string
}

func (d *deps) newSSHInstaller(o installerOptions) (installer, error) {
	options := bootstrap.Options{
		StateDir: o.StateDir, Transport: o.Transport, Parallel: o.Parallel, Hardware: bootplan.HardwareHash(o.Hardware),
		Env: d.env, Log: d.log(),
	}
	if o.Ask != nil {
		options.Ask = asker(o.Ask)
	}
	b, err := bootstrap.New(options)
	if err != nil {
		return nil, err
	}
	return &sshInstaller{Bootstrap: b, d: d, cache: o.CacheDir}, nil
}

// asker makes a bootstrap.Asker out of a function.
type asker func(ctx context.Context, prompt string) (string, error)

func (a asker) Secret(ctx context.Context, prompt string) (string, error) { return a(ctx, prompt) }

func (s *sshInstaller) Probe(ctx context.Context, targets []target) []*foundHost {
	in := make([]bootstrap.Target, len(targets))
	for i, t := range targets {
		in[i] = bootstrap.Target{
			Name: t.Name, Host: t.Host, Addresses: t.Addresses, Port: t.Port, User: t.User, Source: t.Source, Node: t.Node,
		}
	}
	var out []*foundHost
	for _, h := range s.Bootstrap.Probe(ctx, in, nil) {
		out = append(out, hostOf(h))
	}
	return out
}

// hostOf is a probed host in the words of the commands.
func hostOf(h *bootstrap.Host) *foundHost {
	return &foundHost{
		target: target{
			Name: h.Name, Host: h.Host, Addresses: h.Addresses, Port: h.Port, User: h.User, Source: h.Source, Node: h.Node,
		},
		Fingerprint: h.Key.Fingerprint, KeyState: string(h.Key.State), OS: h.Facts.OS, Arch: h.Facts.Arch,
		Model: h.Facts.Model, Chip: h.Facts.Chip, Memory: h.Facts.Memory, Hardware: h.Facts.Hardware, Home: h.Facts.Home,
		Sudo: string(h.Facts.Sudo), Installed: h.Facts.Installed, Unit: h.Facts.Unit, IsSelf: h.Self, Findings: h.Findings,
		inner: h,
	}
}

// innerHost is the installer's own of a host, at the addresses that are known by now.
func innerHost(h *foundHost) *bootstrap.Host {
	inner := h.inner.(*bootstrap.Host)
	inner.Addresses = h.Addresses
	return inner
}

func (s *sshInstaller) Reversed(h *foundHost) bootplan.Finding { return bootstrap.Reversed(h.label()) }

func (s *sshInstaller) Trust(hosts []*foundHost) error {
	in := make([]*bootstrap.Host, len(hosts))
	for i, h := range hosts {
		in[i] = innerHost(h)
	}
	return s.Bootstrap.Trust(in)
}

func (s *sshInstaller) Apply(ctx context.Context, h *foundHost, job installJob, tell func(hostEvent)) (installResult, error) {
	r, err := s.Bootstrap.Apply(ctx, innerHost(h), bootstrap.Job{
		Order: job.Order, Binary: job.Binary, Sign: job.Sign, Prove: job.Prove, Wheels: s.wheels,
	}, func(e bootstrap.Event) {
		tell(hostEvent{Host: e.Host, Step: e.Step, State: e.State, Detail: e.Detail, Err: e.Err, At: e.At, Took: e.Took})
	})
	return installResult{
		Node: r.Node, Key: r.Key, Unit: r.Unit, Changed: r.Changed, VersionID: r.VersionID, Home: r.Home, Log: r.Log,
	}, err
}

func (s *sshInstaller) Binary(os, arch string) (path, versionID string, err error) {
	if path, err = bootstrap.BinaryFor(os, arch, s.d.build.Version, s.d.exe, s.cache); err != nil {
		return "", "", err
	}
	versionID, err = bootstrap.VersionID(s.d.build.Version, path)
	return path, versionID, err
}

func (s *sshInstaller) Version(os, arch string) (versionID string, err error) {
	_, versionID, err = s.Binary(os, arch)
	return versionID, err
}

func (s *sshInstaller) Close() { s.Bootstrap.Close() }

// wheels fetches the Python packages of a host that cannot do so itself, once for all hosts of a kind.
func (s *sshInstaller) wheels(ctx context.Context, os, arch, python string) (string, []bootplan.File, error) {
	environment := mlxbridge.NewEnvironment(mlxbridge.EnvironmentOptions{CacheDir: s.cache, Log: s.d.log()})
	interpreter, err := environment.Base(ctx)
	if err != nil {
		return "", nil, err
	}
	return bootstrap.Wheelhouse(ctx, s.cache, bootstrap.WheelsFor{
		Lock: worker.Requirements, OS: os, Arch: arch, Python: python, Interpreter: interpreter,
	})
}
