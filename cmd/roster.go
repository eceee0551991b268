package cmd

import (
	"context"
	"log/slog"
	"path/filepath"
	"sync"
	"time"

	"github.com/mlxctl/mlxctl/internal/cluster"
	"github.com/mlxctl/mlxctl/internal/controller"
	"github.com/mlxctl/mlxctl/internal/reach"
	"github.com/mlxctl/mlxctl/internal/roster"
)

// rosterEvery is how often the controller looks at the list of admitted nodes.
const rosterEvery = time.Second

func rosterPath(home string) string { return filepath.Join(home, "roster.json") }

// rosterFollower keeps the controller up to date about the nodes that commands admit and remove.
type rosterFollower struct {
	list       func() ([]roster.Node, error)
	controller *controller.Controller
	log        *slog.Logger
	said       string // the last error

	mu    sync.Mutex
	nodes []roster.Node // guarded by mu
}

// look reads the list. One that cannot be read changes nothing.
func (f *rosterFollower) look() {
	nodes, err := f.list()
	if err != nil {
		if err.Error() != f.said {
			f.said = err.Error()
			f.log.Error("cannot read the list of nodes", "err", err)
		}
		return
	}
	f.said = ""
	f.mu.Lock()
	f.nodes = nodes
	f.mu.Unlock()
	admitted := make([]controller.Admitted, len(nodes))
	for i, n := range nodes {
		admitted[i] = controller.Admitted{ID: n.ID, Name: n.Name, Version: n.Version}
	}
	f.controller.SetRoster(admitted)
}

func (f *rosterFollower) run(ctx context.Context) {
	tick := time.NewTicker(rosterEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			f.look()
		}
	}
}

// targets are the nodes that have to be called.
func (f *rosterFollower) targets() []reach.Target {
	f.mu.Lock()
	defer f.mu.Unlock()
	var out []reach.Target
	for _, n := range f.nodes {
		if len(n.Reverse) > 0 {
			out = append(out, reach.Target{Node: n.ID, Addrs: n.Reverse})
		}
	}
	return out
}

// followRoster looks at the list once, and goes on in the background until stop, which waits. Nodes that may not dial
// are called, if the bus is one of this process: bus is its address, else empty.
func (h *daemonHome) followRoster(ctx context.Context, c *controller.Controller, bus string) (stop func()) {
	f := &rosterFollower{list: roster.Open(rosterPath(h.home)).List, controller: c, log: h.slog}
	f.look()
	ctx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	wg.Go(func() { f.run(ctx) })
	if bus != "" {
		calls := &reach.Tunnels{Targets: f.targets, Connected: c.Connected, Bus: bus, Log: h.slog}
		wg.Go(func() { calls.Run(ctx) })
	}
	return func() {
		cancel()
		wg.Wait()
	}
}

// setDrained writes down which command has drained a node; empty means that none has.
func setDrained(r admitted, node cluster.NodeID, command string) error {
	n, err := r.Find(string(node))
	if err != nil {
		return err
	}
	if n.Drained == command {
		return nil
	}
	n.Drained = command
	return r.Put(n)
}

// undrain has a node take requests again that a command drained.
func undrain(ctx context.Context, c clusterClient, r admitted, node cluster.NodeID) error {
	if err := c.Drain(ctx, node, false); err != nil {
		return err
	}
	return setDrained(r, node, "")
}
