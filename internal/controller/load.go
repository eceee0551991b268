package controller

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/mlxctl/mlxctl/internal/bus"
	"github.com/mlxctl/mlxctl/internal/cluster"
	"github.com/mlxctl/mlxctl/sched"
)

// unloadWait bounds an unload: the worker is asked first and killed then.
const unloadWait = 30 * time.Second

// Load brings a model into memory on a node, or where the scheduler would send a request for it. It ends a quarantine.
// progress is told where and what it waits for; it may be nil. Load returns the node when the model has answered there.
func (c *Controller) Load(ctx context.Context, model string, node cluster.NodeID, pinned bool, progress func(cluster.Chunk) error) (cluster.NodeID, error) {
	if err := cluster.ValidateModel(model); err != nil {
		return "", err
	}
	ctx, leave, err := c.gate.enter(ctx)
	if err != nil {
		return "", err
	}
	defer leave()
	model = cleaned(model)
	var placement cluster.Placement
	err = c.whenBack(ctx, lacksReadyNodes, func() (err error) {
		placement, err = c.placeLoad(ctx, model, node)
		return err
	})
	if err != nil {
		return "", typed(ctx, err)
	}
	err = c.loadOn(ctx, placement, bus.LoadRequest{Model: model, Pinned: pinned}, progress)
	if err != nil {
		return "", typed(ctx, onNode(err, placement.Node))
	}
	c.events.publish(cluster.Event{
		At: c.now(), Kind: cluster.EventOperator, Node: placement.Node, Model: model,
		Message: fmt.Sprintf("loaded %s on %s", model, c.nameOf(placement.Node)),
	})
	return placement.Node, nil
}

// placeLoad finds the node for a model that an operator wants in memory.
func (c *Controller) placeLoad(ctx context.Context, model string, node cluster.NodeID) (cluster.Placement, error) {
	req := &cluster.Request{Model: model, Node: node}
	found, refused, err := c.resolve(ctx, model)
	if err != nil {
		return cluster.Placement{}, err
	}
	// An operator is not turned away by full slots, nor by a quarantine.
	s := *c.registry.nodes()
	s.Nodes = slices.Clone(s.Nodes)
	for i := range s.Nodes {
		n := &s.Nodes[i]
		n.Replicas = slices.DeleteFunc(slices.Clone(n.Replicas), func(r cluster.Replica) bool {
			return r.Model == model && r.State == cluster.ReplicaQuarantined
		})
	}
	live := sched.Live{Work: map[cluster.NodeID]sched.Work{}, Resolved: found, Excluded: refused}
	return sched.Place(&s, req, live)
}

// loadOn has a node load a model.
func (c *Controller) loadOn(ctx context.Context, p cluster.Placement, body bus.LoadRequest, progress func(cluster.Chunk) error) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	stream, detach, err := c.openStream(ctx, cancel, p.Node, bus.VerbLoad, rand.Text(), body)
	if err != nil {
		return err
	}
	defer detach()
	defer func() { _ = stream.Close() }() // it gives no error
	for {
		var chunk cluster.Chunk
		err := stream.Next(ctx, &chunk)
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err == nil && progress != nil {
			chunk.Node = p.Node
			err = progress(chunk)
		}
		if err != nil {
			stream.Cancel()
			return causeOr(ctx, err)
		}
	}
}

// Unload takes a model out of memory on a node, or on all that have it there, and returns those. Unless it is forced,
// a model that answers requests stays, and the error has CodeConflict.
func (c *Controller) Unload(ctx context.Context, model string, node cluster.NodeID, force bool) ([]cluster.NodeID, error) {
	if err := cluster.ValidateModel(model); err != nil {
		return nil, err
	}
	ctx, leave, err := c.gate.enter(ctx)
	if err != nil {
		return nil, err
	}
	defer leave()
	model = cleaned(model)
	var targets []cluster.NodeID
	err = c.whenBack(ctx, lacksReadyNodes, func() (err error) {
		targets, err = c.holders(model, node)
		return err
	})
	if err != nil {
		return nil, typed(ctx, err)
	}
	ctx, cancel := context.WithTimeoutCause(ctx, unloadWait,
		cluster.Errorf(cluster.CodeTimeout, "model %s was not out of memory within %s", model, unloadWait))
	defer cancel()
	var wg sync.WaitGroup
	failed := make([]error, len(targets))
	for i, id := range targets {
		wg.Go(func() {
			body := bus.UnloadRequest{Model: model, Force: force}
			failed[i] = onNode(c.o.Conn.Request(ctx, bus.CommandSubject(id, bus.VerbUnload), body, nil), id)
		})
	}
	wg.Wait()
	var done []cluster.NodeID
	var first error
	for i, err := range failed {
		if cluster.CodeOf(err) == cluster.CodeNoModel { // it was there when the node was last heard
			continue
		}
		if err != nil {
			first = cmp.Or(first, typed(ctx, err))
			continue
		}
		done = append(done, targets[i])
		c.events.publish(cluster.Event{
			At: c.now(), Kind: cluster.EventOperator, Node: targets[i], Model: model,
			Message: fmt.Sprintf("unloaded %s on %s", model, c.nameOf(targets[i])),
		})
	}
	if len(done) == 0 && first == nil {
		first = c.notInMemory(model, node)
	}
	return done, first
}

// notInMemory is the error of a model that is not loaded on a node, or, where none is named, on any.
func (c *Controller) notInMemory(model string, node cluster.NodeID) error {
	where := "any node"
	if node != "" {
		where = "node " + c.nameOf(node)
	}
	return cluster.Errorf(cluster.CodeNoModel, "model %s is not in memory on %s", model, where).WithHint("`mlxctl ps` lists what is")
}

// cleaned is a model's name as nodes give it: those of folders may be written in several ways.
func cleaned(model string) string {
	if filepath.IsAbs(model) {
		return filepath.Clean(model)
	}
	return model
}

// holders lists the nodes that have a model in memory, or the one that is named.
func (c *Controller) holders(model string, node cluster.NodeID) ([]cluster.NodeID, error) {
	var out []cluster.NodeID
	known := node == ""
	for _, n := range c.registry.nodes().Nodes {
		if node != "" && n.ID != node {
			continue
		}
		known = true
		isHere := slices.ContainsFunc(n.Replicas, func(r cluster.Replica) bool { return r.Model == model })
		if isHere && n.State != cluster.NodeDown {
			out = append(out, n.ID)
		}
	}
	switch {
	case !known:
		return nil, noNode(node)
	case len(out) == 0:
		return nil, c.notInMemory(model, node)
	}
	return out, nil
}
