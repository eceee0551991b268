package tui

import (
	"cmp"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/mlxctl/mlxctl/internal/cluster"
)

// scene is everything that a frame shows of the cluster, as rows: made once for every Snapshot, never changed.
type scene struct {
	snap                 *cluster.Snapshot // cleaned
	nodes                []nodeRow
	replicas             []replicaRow
	requests             []requestRow
	events               []cluster.Event // newest first
	byState              map[cluster.NodeState]int
	queued               int
	lengths              lengths
	throughput, inFlight func(n int) []float64 // the last n seconds
}

type nodeRow struct {
	*cluster.Node
	models         string // loaded ones, short
	loaded         int
	running, slots int
	rate           float64
	recent         func(n int) []float64
	top            float64 // of the scale of recent
}

type replicaRow struct {
	*cluster.Replica
	node     cluster.NodeID
	nodeName string
}

type requestRow struct {
	*cluster.RequestStatus
	at       time.Time // of the Snapshot
	nodeName string
	rate     float64
}

func newScene(s *cluster.Snapshot, h *history, c *scales, events []cluster.Event) *scene {
	out := &scene{snap: s, events: slices.Clone(events), byState: map[cluster.NodeState]int{}}
	slices.Reverse(out.events)
	names := make(map[cluster.NodeID]string, len(s.Nodes))
	for i := range s.Nodes {
		n := &s.Nodes[i]
		names[n.ID] = n.Name
		out.byState[n.State]++
		row := newNodeRow(n)
		row.recent, row.top = until(h.nodes[n.ID], s.At), c.nodes
		out.nodes = append(out.nodes, row)
		out.measure(&row)
		for j := range n.Replicas {
			out.replicas = append(out.replicas, replicaRow{Replica: &n.Replicas[j], node: n.ID, nodeName: n.Name})
		}
	}
	slices.SortStableFunc(out.replicas, func(a, b replicaRow) int {
		return cmp.Or(cmp.Compare(a.Model, b.Model), cmp.Compare(a.nodeName, b.nodeName))
	})
	for i := range s.Requests {
		r := &s.Requests[i]
		if r.State == cluster.RequestQueued {
			out.queued++
		}
		name, known := names[r.Node]
		if !known {
			name = string(r.Node)
		}
		out.requests = append(out.requests, requestRow{RequestStatus: r, at: s.At, nodeName: name, rate: h.requestRate(s, r)})
	}
	out.throughput, out.inFlight = until(&h.rate, s.At), until(&h.running, s.At)
	return out
}

// measure notes how long the names of a node are, and those of the models that it has.
func (s *scene) measure(n *nodeRow) {
	s.lengths.see(nodeNames, n.Name)
	s.lengths.see(chipNames, n.Hardware.Chip)
	s.lengths.see(loadedNames, n.models)
	if n.Load.GPUPercent != nil {
		s.lengths[gpuReadings] = 1
	}
	if n.Load.PowerWatts != nil {
		s.lengths[wattReadings] = 1
	}
	for i := range n.Models {
		s.lengths.see(modelNames, base(n.Models[i].Name))
		s.lengths.see(wholeNames, n.Models[i].Name)
	}
	for i := range n.Replicas {
		s.lengths.see(modelNames, base(n.Replicas[i].Model))
	}
}

// until returns a reader of a series as it stands at a time. Later values do not show, so a paused screen keeps still.
func until(s *series, at time.Time) func(int) []float64 {
	return func(n int) []float64 {
		if s == nil {
			return nil
		}
		return s.window(at, n)
	}
}

func newNodeRow(n *cluster.Node) nodeRow {
	row := nodeRow{Node: n, rate: nodeRate(n)}
	names := make([]string, 0, len(n.Replicas))
	for i := range n.Replicas {
		r := &n.Replicas[i]
		row.running += r.Running
		if r.State == cluster.ReplicaReady || r.State == cluster.ReplicaEvicting {
			row.loaded++
			row.slots += r.Slots
			names = append(names, base(r.Model))
		}
	}
	slices.Sort(names)
	row.models = strings.Join(names, ", ")
	return row
}

// base is the last part of a model's name: of "org/repo", or of a path.
func base(name string) string {
	return name[strings.LastIndexByte(strings.TrimRight(name, "/"), '/')+1:]
}

// fraction is used of all; NaN where there is no all.
func fraction(used, all int64) float64 {
	if all <= 0 {
		return math.NaN()
	}
	return float64(used) / float64(all)
}

// has says whether any of the texts contains the filter, which is lower case.
func has(filter string, texts ...string) bool {
	for _, t := range texts {
		if strings.Contains(strings.ToLower(t), filter) {
			return true
		}
	}
	return false
}

// memoryPaint warns of a budget that is nearly used up.
func memoryPaint(k *look, f float64) paint {
	switch {
	case f >= 0.95:
		return k.bad
	case f >= 0.8:
		return k.warn
	}
	return k.meter
}
