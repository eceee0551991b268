package cmd

import (
	"context"

	"github.com/mlxctl/mlxctl/internal/bonjour"
	"github.com/mlxctl/mlxctl/internal/bootstrap"
	"github.com/mlxctl/mlxctl/internal/bootstrap/plan"
	"github.com/mlxctl/mlxctl/internal/cluster"
	"github.com/mlxctl/mlxctl/internal/config"
	"github.com/mlxctl/mlxctl/internal/iostreams"
	"github.com/mlxctl/mlxctl/internal/roster"
	"github.com/mlxctl/mlxctl/internal/trust"
	"github.com/mlxctl/mlxctl/mlxbridge"
	"github.com/mlxctl/mlxctl/mlxbridge/worker"
)

// installer reaches hosts and changes them; *bootstrap.Bootstrap is one.
type installer interface {
	Probe(ctx context.Context, t bootstrap.Target) *bootstrap.Host
	Trust(hosts []*bootstrap.Host) error
	Apply(ctx context.Context, h *bootstrap.Host, job bootstrap.Job, tell func(bootstrap.Event)) (bootstrap.Result, error)
	Close()
}

// admitted is the list of nodes that this cluster has admitted; *roster.Roster is one.
type admitted interface {
	List() ([]roster.Node, error)
	Find(nameOrID string) (roster.Node, error)
	Put(n roster.Node) error
	Remove(id cluster.NodeID) error
}

// scanner asks Bonjour; bonjour.Scan is one.
type scanner func(context.Context, bonjour.ScanOptions) ([]bonjour.Mac, error)

// parts are what commands that change other machines are made of. Tests put their own in.
type parts struct {
	scan      scanner
	installer func(bootstrap.Options) (installer, error)
	// binary is this program for a platform, and the id of its version; cache is where those of other platforms are.
	binary func(cache, os, arch string) (path, versionID string, err error)
	roster func(path string) admitted
	// liveKey is the key that a node which is up proves to have been signed for it.
	liveKey func(ctx context.Context, home string, authority *trust.Authority, node cluster.NodeID) (string, error)
	// services starts those of this machine and proves them; the caller closes the connection.
	services func(ctx context.Context, opts *upOptions, cfg *config.Config, progress *iostreams.Progress) (localState, error)
}

// localState is what the services of this machine are after they were started.
type localState struct {
	client   clusterClient
	snapshot *cluster.Snapshot
	changed  bool
}

// lanParts joins discovery, SSH and the list of admitted nodes to the commands.
func (d *deps) lanParts() parts {
	if d.parts != nil {
		return *d.parts
	}
	return parts{
		scan:      bonjour.Scan,
		installer: func(o bootstrap.Options) (installer, error) { return bootstrap.New(o) },
		binary:    d.binaryFor,
		roster:    func(path string) admitted { return roster.Open(path) },
		liveKey:   d.liveKey,
		services:  startServices,
	}
}

func (d *deps) binaryFor(cache, os, arch string) (path, versionID string, err error) {
	if path, err = bootstrap.BinaryFor(os, arch, d.build.Version, d.exe, cache); err != nil {
		return "", "", err
	}
	versionID, err = bootstrap.VersionID(d.build.Version, path)
	return path, versionID, err
}

// binaries is binary with a cache.
func (d *deps) binaries(cache string) func(os, arch string) (path, versionID string, err error) {
	binary := d.lanParts().binary
	return func(os, arch string) (string, string, error) { return binary(cache, os, arch) }
}

// wheels fetches the Python packages of a host that cannot do so itself, once for all hosts of a kind.
func (d *deps) wheels(cache string) func(ctx context.Context, os, arch, python string) (string, []plan.File, error) {
	return func(ctx context.Context, os, arch, python string) (string, []plan.File, error) {
		environment := mlxbridge.NewEnvironment(mlxbridge.EnvironmentOptions{CacheDir: cache, Log: d.log()})
		interpreter, err := environment.Base(ctx)
		if err != nil {
			return "", nil, err
		}
		return bootstrap.Wheelhouse(ctx, cache, bootstrap.WheelsFor{
			Lock: worker.Requirements, OS: os, Arch: arch, Python: python, Interpreter: interpreter,
		})
	}
}

// asker makes a bootstrap.Asker out of a function.
type asker func(ctx context.Context, prompt string) (string, error)

func (a asker) Secret(ctx context.Context, prompt string) (string, error) { return a(ctx, prompt) }
