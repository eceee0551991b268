package roster

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/mlxctl/mlxctl/internal/cluster"
	"github.com/mlxctl/mlxctl/internal/durable"
)

const (
	// formatVersion is that of the file; another one is refused.
	formatVersion = 1
	// mostBytes bounds the file. The nodes of a team fill a small part of it.
	mostBytes = 8 << 20
)

// file is what is on disk. Fields that this version does not know are dropped at the next change.
type file struct {
	Version int    `json:"version"`
	Nodes   []Node `json:"nodes"`
}

// Roster is the list in one file. It is safe for concurrent use, also by several processes: each call reads the file
// anew, and changes are made one after another.
type Roster struct{ path string }

// Open names the file of a roster. It need not be there: then nobody has been admitted.
func Open(path string) *Roster { return &Roster{path: path} }

// Path is the file.
func (r *Roster) Path() string { return r.path }

// ModTime is when the list changed last; zero where there is none. Whoever wants to follow the list compares it.
func (r *Roster) ModTime() (time.Time, error) {
	info, err := os.Stat(r.path)
	if errors.Is(err, fs.ErrNotExist) {
		return time.Time{}, nil
	}
	if err != nil {
		return time.Time{}, fmt.Errorf("look at the list of nodes: %w", err)
	}
	return info.ModTime(), nil
}

// List returns all nodes by name, then id. The error has CodeConflict when the file is damaged.
func (r *Roster) List() ([]Node, error) {
	f, err := os.Open(r.path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read the list of nodes: %w", err)
	}
	data, err := io.ReadAll(io.LimitReader(f, mostBytes+1))
	_ = f.Close() // nothing was written
	if err != nil {
		return nil, fmt.Errorf("read the list of nodes: %w", err)
	}
	nodes, err := parse(data)
	if err != nil {
		return nil, cluster.Errorf(cluster.CodeConflict, "the list of nodes in %s is damaged: %v", r.path, err).
			WithHint("restore it from a backup, or remove it: `mlxctl up` finds and admits the nodes again")
	}
	return nodes, nil
}

func parse(data []byte) ([]Node, error) {
	if len(data) > mostBytes {
		return nil, fmt.Errorf("it has more than %d bytes", mostBytes)
	}
	var f file
	if err := json.Unmarshal(data, &f); err != nil {
		return nil, err //nolint:wrapcheck // the caller says what of
	}
	if f.Version != formatVersion {
		return nil, fmt.Errorf("format version %d is not %d", f.Version, formatVersion)
	}
	seen := make(map[cluster.NodeID]bool)
	for _, n := range f.Nodes {
		if n.ID == "" || seen[n.ID] {
			return nil, fmt.Errorf("node id %q is empty or there twice", n.ID)
		}
		seen[n.ID] = true
	}
	sortNodes(f.Nodes)
	return f.Nodes, nil
}

func sortNodes(nodes []Node) {
	slices.SortFunc(nodes, func(a, b Node) int { return cmp.Or(cmp.Compare(a.Name, b.Name), cmp.Compare(a.ID, b.ID)) })
}

// Find returns the node with an id, or the one node with a name, in whatever case it is written. The error has
// CodeNoNode when there is none, and CodeConflict when several have the name.
func (r *Roster) Find(nameOrID string) (Node, error) {
	nodes, err := r.List()
	if err != nil {
		return Node{}, err
	}
	var named []Node
	var known, ids []string
	for _, n := range nodes {
		if string(n.ID) == nameOrID {
			return n, nil
		}
		if n.Name != "" && strings.EqualFold(n.Name, nameOrID) {
			named, ids = append(named, n), append(ids, string(n.ID))
		}
		known = append(known, n.Name)
	}
	switch len(named) {
	case 1:
		return named[0], nil
	case 0:
		e := cluster.Errorf(cluster.CodeNoNode, "no node %q was admitted", nameOrID).WithHint("`mlxctl nodes` lists them")
		if near := cluster.Nearest(nameOrID, known); len(near) > 0 {
			e = e.WithHint("did you mean %q?", near[0])
		}
		return Node{}, e
	}
	return Node{}, cluster.Errorf(cluster.CodeConflict, "%d nodes are called %q", len(named), nameOrID).
		WithHint("say which by its id: %s", strings.Join(ids, ", "))
}

// Put writes a node down, in the place of the one with its id if there is one.
func (r *Roster) Put(n Node) error {
	return r.change(func(nodes []Node) ([]Node, error) { return put(nodes, n) })
}

// Admit writes a node down unless somebody else has its id or its key: then the error has CodeConflict. It is for nodes
// that say themselves who they are.
func (r *Roster) Admit(n Node) error {
	return r.change(func(nodes []Node) ([]Node, error) {
		if err := Clash(nodes, n.ID, n.Key); err != nil {
			return nil, err
		}
		return put(nodes, n)
	})
}

// Clash is the error, of CodeConflict, of a node that has the id or the key of another one of nodes; nil where it has neither
// or both.
func Clash(nodes []Node, id cluster.NodeID, key string) error {
	for _, other := range nodes {
		if (other.ID == id) != (other.Key == key) {
			return cluster.Errorf(cluster.CodeConflict, "node %s was admitted with another key or id", other.ID).
				WithHint("`mlxctl nodes rm %s` on the controller's Mac, if it is to be admitted anew", other.ID)
		}
	}
	return nil
}

func put(nodes []Node, n Node) ([]Node, error) {
	if n.ID == "" {
		return nil, cluster.Invalid("node", "has no id")
	}
	i := slices.IndexFunc(nodes, func(other Node) bool { return other.ID == n.ID })
	if i < 0 {
		return append(nodes, n), nil
	}
	nodes[i] = n
	return nodes, nil
}

// Update changes a node as it is now. The error has CodeNoNode when it is not there any more; then nothing is written.
func (r *Roster) Update(id cluster.NodeID, change func(*Node)) error {
	return r.change(func(nodes []Node) ([]Node, error) {
		i := slices.IndexFunc(nodes, func(n Node) bool { return n.ID == id })
		if i < 0 {
			return nil, cluster.Errorf(cluster.CodeNoNode, "node %s is not in the list any more", id).WithHint("`mlxctl nodes` lists them")
		}
		change(&nodes[i])
		return nodes, nil
	})
}

// Remove takes a node off the list. It is no error when it was not there.
func (r *Roster) Remove(id cluster.NodeID) error {
	return r.change(func(nodes []Node) ([]Node, error) {
		return slices.DeleteFunc(nodes, func(n Node) bool { return n.ID == id }), nil
	})
}

// change replaces the list while nobody else does.
func (r *Roster) change(edit func([]Node) ([]Node, error)) error {
	dir := filepath.Dir(r.path)
	if err := durable.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("make folder of the list of nodes: %w", err)
	}
	// Nothing ends the waiting: who holds the lock is done as soon as its list is on the disk.
	lock, err := durable.Lock(context.Background(), dir)
	if err != nil {
		return err
	}
	defer lock.Release()
	nodes, err := r.List()
	if err != nil {
		return err
	}
	if nodes, err = edit(nodes); err != nil {
		return err
	}
	sortNodes(nodes)
	data, err := json.MarshalIndent(file{formatVersion, nodes}, "", "  ")
	if err != nil {
		return fmt.Errorf("encode the list of nodes: %w", err)
	}
	if err := durable.Write(r.path, append(data, '\n'), 0o600); err != nil {
		return fmt.Errorf("write the list of nodes: %w", err)
	}
	return nil
}
