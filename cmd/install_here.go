package cmd

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sync/errgroup"

	"github.com/mlxctl/mlxctl/internal/bootstrap"
	"github.com/mlxctl/mlxctl/internal/bootstrap/host"
	"github.com/mlxctl/mlxctl/internal/bootstrap/plan"
	"github.com/mlxctl/mlxctl/internal/cluster"
	"github.com/mlxctl/mlxctl/internal/durable"
)

// installHere has the host's side install the node of this machine, as an operator's side does over SSH. jwt is its key,
// signed. how names who runs its agent.
func (d *deps) installHere(ctx context.Context, home, jwt string, s plan.Settings, kind plan.UnitKind) (how string, err error) {
	version, exe, err := d.placeBinary(home)
	if err != nil {
		return "", err
	}
	done, err := d.hostHere(ctx, exe, jwt, plan.Order{
		Action: plan.Install, Operator: operatorName(), Home: home, Version: version, Settings: s, Unit: kind, Gate: gateTimeout,
		TakeOver: true, // whoever has a token and is at this Mac has agreed to it
	})
	return string(done.Unit), err
}

// hostHere has the host's side do an order on this machine. The error is also that of an order that could not be done.
func (d *deps) hostHere(ctx context.Context, exe, jwt string, order plan.Order) (plan.FromHost, error) {
	progress := d.streams.NewProgress(d.quiet)
	defer progress.Close()
	orders, toHost := io.Pipe()
	fromHost, said := io.Pipe()
	o := d.hostOptions()
	o.In, o.Out, o.Exe = orders, said, exe
	var done plan.FromHost
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error {
		err := host.Serve(ctx, o)
		return errors.Join(err, said.CloseWithError(io.EOF))
	})
	group.Go(func() error {
		defer toHost.Close()   //nolint:errcheck // a pipe in memory
		defer fromHost.Close() //nolint:errcheck // a pipe in memory
		var err error
		done, err = converse(toHost, fromHost, order, jwt, func(m plan.FromHost) {
			progress.Step("%s: %s", m.Step, m.Detail)
		})
		return err
	})
	if err := group.Wait(); err != nil {
		return done, fmt.Errorf("%s the agent: %w", order.Action, err)
	}
	if done.Error != nil {
		progress.Close()
		return done, d.withLog(done.Error, done.Log)
	}
	return done, nil
}

// withLog shows the end of an agent's log, and returns the error that it explains.
func (d *deps) withLog(failed *cluster.Error, log []string) error {
	if len(log) == 0 {
		return failed
	}
	if _, err := io.WriteString(d.streams.Err, "the end of the agent's log:\n"+logLines(log)); err != nil {
		return fmt.Errorf("%w; and its log cannot be shown: %w", failed, err)
	}
	return failed
}

// placeBinary puts a copy of this binary where a node has its versions, and returns its version and its path.
func (d *deps) placeBinary(home string) (version, path string, err error) {
	if version, err = bootstrap.VersionID(d.build.Version, d.exe); err != nil {
		return "", "", err
	}
	path = filepath.Join(home, "versions", version, "mlxctl")
	if there, err := bootstrap.VersionID(d.build.Version, path); err == nil && there == version {
		return version, path, nil
	}
	if err := durable.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return "", "", fmt.Errorf("make folder of versions: %w", err)
	}
	if err := copyFile(d.exe, path, 0o755); err != nil {
		return "", "", fmt.Errorf("copy this binary to %s: %w", path, err)
	}
	return version, path, nil
}

// copyFile makes a new file: a binary that runs must not be written over.
func copyFile(from, to string, mode os.FileMode) error {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close() //nolint:errcheck // only read
	return durable.WriteFrom(to, in, mode)
}

// converse is the operator's side of an installation whose node's key is signed already: jwt is what it is given,
// and that it reaches its controller is proof enough.
func converse(to io.Writer, from io.Reader, order plan.Order, jwt string, tell func(plan.FromHost)) (plan.FromHost, error) {
	out := json.NewEncoder(to)
	if err := out.Encode(order); err != nil {
		return plan.FromHost{}, fmt.Errorf("send the order: %w", err)
	}
	lines := bufio.NewScanner(from)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		var m plan.FromHost
		if err := json.Unmarshal(lines.Bytes(), &m); err != nil {
			return m, fmt.Errorf("read what the installation says: %w", err)
		}
		var answer *plan.ToHost
		switch m.Type {
		case plan.TypeStep:
			if strings.TrimSpace(m.Detail) != "" {
				tell(m)
			}
		case plan.TypeKey:
			answer = &plan.ToHost{Type: plan.TypeCredentials, JWT: jwt}
		case plan.TypeLinked:
			answer = &plan.ToHost{Type: plan.TypeCommit}
		case plan.TypeDone:
			return m, nil
		}
		if answer != nil {
			if err := out.Encode(answer); err != nil {
				return m, fmt.Errorf("answer the installation: %w", err)
			}
		}
	}
	return plan.FromHost{}, cluster.Errorf(cluster.CodeInternal, "the installation ended without a word: %v", lines.Err())
}
