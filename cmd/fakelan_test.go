package cmd

import (
	"context"
	"path/filepath"
	"slices"
	"strings"

	"github.com/mlxctl/mlxctl/internal/cluster"
	"github.com/mlxctl/mlxctl/internal/config"
	"github.com/mlxctl/mlxctl/internal/iostreams"
	"github.com/mlxctl/mlxctl/internal/roster"
	"github.com/mlxctl/mlxctl/internal/trust"
)

// fakeLAN is the cluster as clients see it.
type fakeLAN struct {
	*fakeCluster
	f *fakeNet
}

func (c fakeLAN) Snapshot(context.Context) (*cluster.Snapshot, error) {
	c.f.mu.Lock()
	defer c.f.mu.Unlock()
	if c.f.looks != nil {
		c.f.looks()
	}
	s := &cluster.Snapshot{Cluster: "lab", Nodes: slices.Clone(c.f.nodes), Requests: slices.Clone(c.f.requests)}
	for i := range s.Nodes {
		if s.Nodes[i].State == cluster.NodeReady && c.f.drained[s.Nodes[i].ID] {
			s.Nodes[i].State = cluster.NodeDraining
		}
	}
	return s, nil
}

func (c fakeLAN) Generate(_ context.Context, req *cluster.Request, emit func(cluster.Chunk) error) error {
	c.f.mu.Lock()
	c.f.note("generate %s", req.Node)
	isWrong, isDrained := c.f.wrong[req.Node], c.f.drained[req.Node]
	c.f.mu.Unlock()
	text := selfTestAnswer
	if isWrong {
		text = "42"
	}
	if isDrained {
		return cluster.Errorf(cluster.CodeBusy, "node %s is draining", req.Node)
	}
	return emit(cluster.Chunk{Text: text, Finish: "stop"})
}

func (c fakeLAN) Drain(_ context.Context, node cluster.NodeID, on bool) error {
	c.f.mu.Lock()
	defer c.f.mu.Unlock()
	c.f.note("drain %s %v", node, on)
	c.f.drained[node] = on
	return nil
}

func (c fakeLAN) Forget(_ context.Context, node cluster.NodeID) error {
	c.f.mu.Lock()
	defer c.f.mu.Unlock()
	i := slices.IndexFunc(c.f.nodes, func(n cluster.Node) bool { return n.ID == node })
	if i < 0 {
		return cluster.Errorf(cluster.CodeNoNode, "no node %s", node)
	}
	c.f.nodes = slices.Delete(c.f.nodes, i, i+1)
	c.f.note("forget %s", node)
	return nil
}

// List and the others are those of the list of nodes.
func (f *fakeNet) List() ([]roster.Node, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.admitted), f.damaged
}

func (f *fakeNet) Find(name string) (roster.Node, error) {
	nodes, _ := f.List()
	if n, ok := nodeOf(nodes, name); ok {
		return n, nil
	}
	return roster.Node{}, cluster.Errorf(cluster.CodeNoNode, "no node %q", name)
}

func (f *fakeNet) Put(n roster.Node) error {
	_ = f.Remove(n.ID)
	f.mu.Lock()
	defer f.mu.Unlock()
	f.admitted = append(f.admitted, n)
	slices.SortFunc(f.admitted, func(a, b roster.Node) int { return strings.Compare(a.Name, b.Name) })
	return nil
}

func (f *fakeNet) Remove(id cluster.NodeID) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.admitted = slices.DeleteFunc(f.admitted, func(n roster.Node) bool { return n.ID == id })
	return nil
}

// liveKey is what a node answers that is asked for its key.
func (f *fakeNet) liveKey(_ context.Context, _ string, _ *trust.Authority, node cluster.NodeID) (string, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if key := f.live[node]; key != "" {
		return key, nil
	}
	return "", cluster.Errorf(cluster.CodeTimeout, "it does not answer")
}

// services starts those of this machine.
func (f *fakeNet) services(_ context.Context, _ *upOptions, cfg *config.Config, _ *iostreams.Progress) (localState, error) {
	if _, err := trust.Init(trustDir(f.home), "lab"); err != nil {
		return localState{}, err
	}
	before, _, err := readLocal(f.home)
	if err != nil {
		return localState{}, err
	}
	l := openToNetwork(before)
	l.Name, l.HTTPAddr, l.Models = "lab", defaultHTTPAddr, cfg.Models
	if err := l.write(f.home); err != nil {
		return localState{}, err
	}
	if err := config.WriteFile(filepath.Join(f.home, "agent", "node.json"), []byte(`{"id":"n-own"}`)); err != nil {
		return localState{}, err
	}
	f.mu.Lock()
	changed := !f.running
	f.running = true
	if changed {
		f.starts++
		f.nodes = append([]cluster.Node{{ID: "n-own", Name: "own", State: cluster.NodeReady, Version: "v1.2.3"}},
			slices.DeleteFunc(f.nodes, func(n cluster.Node) bool { return n.ID == "n-own" })...)
	}
	f.mu.Unlock()
	c := fakeLAN{&fakeCluster{}, f}
	s, err := c.Snapshot(context.Background())
	return localState{client: c, snapshot: s, changed: changed}, err
}
