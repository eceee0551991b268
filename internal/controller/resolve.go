package controller

import (
	"context"
	"slices"
	"sync"
	"time"

	"github.com/mlxctl/mlxctl/internal/bus"
	"github.com/mlxctl/mlxctl/internal/cluster"
)

const (
	resolveWait = 2 * time.Second
	// A model that was found may be gone, one that was not may have come: answers are believed for a while.
	resolvedFor   = 30 * time.Second
	unresolvedFor = 2 * time.Second
	resolveKept   = 1024 // names
)

// resolver asks nodes for models that none of them lists: folders, and what came to a disk since the last hello.
type resolver struct {
	ask func(ctx context.Context, node cluster.NodeID, name string) (cluster.Model, error)
	now func() time.Time

	mu    sync.Mutex
	names map[string]*answers // guarded by mu
}

// answers are what nodes said about one name.
type answers struct {
	turn   chan struct{} // holds a token while somebody asks
	byNode map[cluster.NodeID]answer
	used   time.Time // guarded by resolver.mu
}

type answer struct {
	at    time.Time
	model cluster.Model
	err   error
}

func (a answer) isFresh(now time.Time) bool {
	if a.err != nil {
		return now.Sub(a.at) < unresolvedFor
	}
	return now.Sub(a.at) < resolvedFor
}

// resolve asks nodes for a model if none that is not down lists it.
func (c *Controller) resolve(ctx context.Context, model string) (map[cluster.NodeID]cluster.Model, []cluster.Refusal, error) {
	nodes := c.registry.nodes().Nodes
	for i := range nodes {
		listed := slices.ContainsFunc(nodes[i].Models, func(m cluster.Model) bool { return m.Name == model })
		if listed && nodes[i].State != cluster.NodeDown {
			return nil, nil, nil
		}
	}
	return c.resolver.resolve(ctx, model, nodes)
}

// askModel asks one node for a model.
func (c *Controller) askModel(ctx context.Context, node cluster.NodeID, name string) (cluster.Model, error) {
	var reply bus.ResolveReply
	err := c.o.Conn.Request(ctx, bus.CommandSubject(node, bus.VerbResolve), bus.ResolveRequest{Model: name}, &reply)
	if err != nil && ctx.Err() != nil {
		err = timeoutError(node, "node %s did not say within %s whether it has model %s", c.nameOf(node), resolveWait, name)
	}
	return reply.Model, err
}

// resolve finds a model that is not listed. It returns the nodes that have it, and why the others, as far as they said
// so, have not.
func (r *resolver) resolve(ctx context.Context, name string, nodes []cluster.Node) (map[cluster.NodeID]cluster.Model, []cluster.Refusal, error) {
	a := r.answersFor(name)
	select { // requests for the same name ask once
	case a.turn <- struct{}{}:
	case <-ctx.Done():
		return nil, nil, context.Cause(ctx)
	}
	defer func() { <-a.turn }()
	r.askNodes(ctx, name, nodes, a.byNode)
	found := make(map[cluster.NodeID]cluster.Model)
	var refused []cluster.Refusal
	for i := range nodes {
		id := nodes[i].ID
		got, asked := a.byNode[id]
		switch {
		case !asked:
		case got.err == nil:
			found[id] = got.model
		case cluster.CodeOf(got.err) != cluster.CodeNoModel:
			e := cluster.AsError(got.err)
			refused = append(refused, cluster.Refusal{Node: id, Code: e.Code, Reason: e.Message})
		}
	}
	return found, refused, nil
}

// askNodes asks, at once, those ready nodes that have not answered lately.
func (r *resolver) askNodes(caller context.Context, name string, nodes []cluster.Node, known map[cluster.NodeID]answer) {
	ctx, cancel := context.WithTimeout(caller, resolveWait)
	defer cancel()
	now := r.now()
	var due []cluster.NodeID
	for i := range nodes {
		old, ok := known[nodes[i].ID]
		if nodes[i].State == cluster.NodeReady && (!ok || !old.isFresh(now)) {
			due = append(due, nodes[i].ID)
		}
	}
	var wg sync.WaitGroup
	var mu sync.Mutex // guards known
	for _, id := range due {
		wg.Go(func() {
			m, err := r.ask(ctx, id, name)
			if err != nil && caller.Err() != nil {
				return // that says nothing about the node
			}
			mu.Lock()
			defer mu.Unlock()
			known[id] = answer{at: r.now(), model: m, err: err}
		})
	}
	wg.Wait()
}

func (r *resolver) answersFor(name string) *answers {
	r.mu.Lock()
	defer r.mu.Unlock()
	now := r.now()
	a := r.names[name]
	if a == nil {
		if len(r.names) >= resolveKept {
			r.forgetOldest()
		}
		a = &answers{turn: make(chan struct{}, 1), byNode: make(map[cluster.NodeID]answer)}
		r.names[name] = a
	}
	a.used = now
	return a
}

// forget has nodes asked again about a name.
func (r *resolver) forget(name string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.names, name)
}

// forgetOldest makes room: whoever asks about names at random must not fill the memory.
func (r *resolver) forgetOldest() {
	oldest, at := "", time.Time{}
	for name, a := range r.names {
		if at.IsZero() || a.used.Before(at) {
			oldest, at = name, a.used
		}
	}
	delete(r.names, oldest)
}
