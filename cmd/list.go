package cmd

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"

	"github.com/spf13/cobra"

	"github.com/mlxctl/mlxctl/internal/cluster"
	"github.com/mlxctl/mlxctl/internal/printer"
)

// listOptions are those of a command that shows a part of the snapshot.
type listOptions struct {
	*deps
	output *outputFlags
	show   func(*listOptions, printer.Options, *cluster.Snapshot) error
}

func newListing(d *deps, cmd *cobra.Command, runF func(context.Context, *listOptions) error,
	show func(*listOptions, printer.Options, *cluster.Snapshot) error,
) *cobra.Command {
	if runF == nil {
		runF = runListing
	}
	opts := &listOptions{deps: d, show: show}
	cmd.Args = between(0, 0, "")
	cmd.Annotations = exits("0", "1", "2", "4", "6", "7")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error { return runF(cmd.Context(), opts) }
	opts.output = addOutput(cmd, listFormats()...)
	return cmd
}

func runListing(ctx context.Context, opts *listOptions) error {
	out, err := opts.output.options()
	if err != nil {
		return err
	}
	s, err := opts.snapshot(ctx)
	if err != nil {
		return err
	}
	return opts.show(opts, out, s)
}

func newPs(d *deps, runF func(context.Context, *listOptions) error) *cobra.Command {
	return newListing(d, &cobra.Command{Use: "ps", Short: "List the models in memory"}, runF, showReplicas)
}

// replicaItem is the shape of one loaded model in JSON.
type replicaItem struct {
	cluster.Replica
	Node     cluster.NodeID `json:"node"`
	NodeName string         `json:"node_name"`
}

func showReplicas(opts *listOptions, out printer.Options, s *cluster.Snapshot) error {
	var items []replicaItem
	work := s.Work()
	for _, n := range s.Nodes {
		for _, r := range n.Replicas {
			items = append(items, replicaItem{r, n.ID, n.Name})
		}
	}
	list := printer.List[replicaItem]{
		Name:  func(r replicaItem) string { return r.Model },
		Empty: "no model is in memory; `mlxctl run` or `mlxctl load` brings one there",
		Columns: []printer.Column[replicaItem]{
			{Header: "MODEL", Value: func(r replicaItem) string { return r.Model }},
			{Header: "NODE", Value: func(r replicaItem) string { return r.NodeName }},
			{Header: "STATE", Value: func(r replicaItem) string { return string(r.State) }},
			{Header: "MEM", Right: true, Value: func(r replicaItem) string { return memoryOf(&r.Replica) }},
			{Header: "CTX", Right: true, Value: func(r replicaItem) string { return strconv.Itoa(r.Context) }},
			{Header: "IDLE", Right: true, Value: func(r replicaItem) string { return idle(r.Replica, s.At) }},
			{Header: "REQS", Right: true, Value: func(r replicaItem) string { return strconv.Itoa(work[cluster.Place{Node: r.Node, Model: r.Model}]) }},
			{Header: "TOK/S", Right: true, Value: func(r replicaItem) string { return printer.Rate(r.TokensPerSecond) }},
			{Header: "CLAIM", Wide: true, Right: true, Value: func(r replicaItem) string { return printer.Bytes(r.PlannedBytes) }},
			{Header: "SLOTS", Wide: true, Right: true, Value: func(r replicaItem) string { return strconv.Itoa(r.Slots) }},
			{Header: "ALONE", Wide: true, Right: true, Value: func(r replicaItem) string { return alone(r.Curve) }},
			{Header: "WITH", Wide: true, Value: func(r replicaItem) string { return r.With() }},
			{Header: "PID", Wide: true, Right: true, Value: func(r replicaItem) string { return strconv.Itoa(r.WorkerPID) }},
			{Header: "RESTARTS", Wide: true, Right: true, Value: func(r replicaItem) string { return strconv.Itoa(r.Restarts) }},
			{Header: "DIGEST", Wide: true, Value: func(r replicaItem) string { return short(r.Digest) }},
			{Header: "REASON", Wide: true, Value: func(r replicaItem) string { return r.Reason }},
		},
	}
	return list.Print(opts.streams, out, items)
}

// memoryOf is what a replica takes, marked where it was not measured.
func memoryOf(r *cluster.Replica) string {
	n, measured := r.Memory()
	switch {
	case measured:
		return printer.Bytes(n)
	case n == 0:
		return "" // it has none
	default:
		return "~" + printer.Bytes(n)
	}
}

// alone is the tokens a second of a stream that has a replica to itself, marked where it was not measured.
func alone(c *cluster.Curve) string {
	ms := c.StepMS(1)
	switch {
	case ms <= 0:
		return ""
	case c.Measured:
		return printer.Rate(1000 / ms)
	default:
		return "~" + printer.Rate(1000/ms)
	}
}

func idle(r cluster.Replica, now time.Time) string {
	switch {
	case r.Pinned:
		return "pinned"
	case r.IdleSince == nil:
		return ""
	default:
		return printer.Age(now.Sub(*r.IdleSince))
	}
}

func showNodes(opts *listOptions, out printer.Options, s *cluster.Snapshot) error {
	list := printer.List[cluster.Node]{
		Name:    wordOf(s.Nodes, func(n cluster.Node) (string, cluster.NodeID) { return n.Name, n.ID }),
		Empty:   "no nodes; run `mlxctl up`",
		Columns: nodeColumns(s.At),
	}
	return list.Print(opts.streams, out, s.Nodes)
}

// wordOf tells of what each of the items is named by one word that other commands take for it: the node's name, or its id where
// another has that name too, or where xargs or a command would take it for something else.
func wordOf[T any](items []T, node func(T) (name string, id cluster.NodeID)) func(T) string {
	holders := make(map[string]int)
	for _, item := range items {
		name, _ := node(item)
		holders[strings.ToLower(name)]++
	}
	return func(item T) string {
		name, id := node(item)
		isNoWord := name == "" || name[0] == '-' || strings.ContainsAny(name, `'"\`) ||
			strings.ContainsFunc(name, func(r rune) bool { return unicode.IsSpace(r) || !unicode.IsGraphic(r) })
		if isNoWord || holders[strings.ToLower(name)] > 1 {
			return string(id)
		}
		return name
	}
}

func nodeColumns(now time.Time) []printer.Column[cluster.Node] {
	return []printer.Column[cluster.Node]{
		{Header: "NAME", Value: func(n cluster.Node) string { return n.Name }},
		{Header: "STATE", Value: func(n cluster.Node) string { return n.StateName() }},
		{Header: "CHIP", Value: func(n cluster.Node) string { return n.Hardware.Chip }},
		{Header: "MEM", Right: true, Value: func(n cluster.Node) string { return bytesOrNone(n.Hardware.MemoryBytes) }},
		{Header: "FREE", Right: true, Value: func(n cluster.Node) string { return reading(n.Load.MemoryFreeBytes, printer.Bytes) }},
		{Header: "CPU%", Right: true, Value: func(n cluster.Node) string { return reading(n.Load.CPUPercent, percent) }},
		{Header: "GPU%", Right: true, Value: func(n cluster.Node) string { return reading(n.Load.GPUPercent, percent) }},
		{Header: "POWER", Right: true, Value: func(n cluster.Node) string { return reading(n.Load.PowerWatts, watts) }},
		{Header: "MODELS", Right: true, Value: func(n cluster.Node) string { return strconv.Itoa(len(n.Replicas)) }},
		{Header: "AGE", Right: true, Value: func(n cluster.Node) string {
			if n.StartedAt == nil {
				return ""
			}
			return printer.Age(now.Sub(*n.StartedAt))
		}},
		{Header: "ID", Wide: true, Value: func(n cluster.Node) string { return string(n.ID) }},
		{Header: "VERSION", Wide: true, Value: func(n cluster.Node) string { return n.Version }},
		{Header: "BUDGET", Wide: true, Right: true, Value: func(n cluster.Node) string { return bytesOrNone(n.BudgetBytes) }},
		{Header: "PLANNED", Wide: true, Right: true, Value: func(n cluster.Node) string { return printer.Bytes(n.PlannedBytes) }},
		{Header: "OS", Wide: true, Value: func(n cluster.Node) string {
			return strings.TrimSpace(n.Hardware.OS + " " + n.Hardware.OSVersion + " " + n.Hardware.Arch)
		}},
		{Header: "REASON", Wide: true, Value: func(n cluster.Node) string { return n.Reason }},
	}
}

func newModels(d *deps, runF func(context.Context, *listOptions) error) *cobra.Command {
	return newListing(d, &cobra.Command{Use: "models", Aliases: []string{"model"}, Short: "List the models on the nodes' disks"}, runF, showModels)
}

// modelItem is the shape of one model in JSON.
type modelItem struct {
	cluster.Model
	Nodes  []string `json:"nodes"`  // names of those that have it on disk
	Loaded []string `json:"loaded"` // names of those that have it in memory
}

func showModels(opts *listOptions, out printer.Options, s *cluster.Snapshot) error {
	list := printer.List[modelItem]{
		Name:  func(m modelItem) string { return m.Name },
		Empty: "no models; is a node ready? see `mlxctl nodes`",
		Columns: []printer.Column[modelItem]{
			{Header: "MODEL", Value: func(m modelItem) string { return m.Name }},
			{Header: "SIZE", Right: true, Value: func(m modelItem) string { return bytesOrNone(m.WeightBytes) }},
			{Header: "QUANT", Value: func(m modelItem) string { return m.Quantization }},
			{Header: "CTX", Right: true, Value: func(m modelItem) string { return strconv.Itoa(m.Context) }},
			{Header: "NODES", Value: func(m modelItem) string { return strings.Join(m.Nodes, ",") }},
			{Header: "LOADED", Value: func(m modelItem) string { return strings.Join(m.Loaded, ",") }},
			{Header: "ARCH", Wide: true, Value: func(m modelItem) string { return m.Architecture }},
			{Header: "KV/TOKEN", Wide: true, Right: true, Value: func(m modelItem) string { return bytesOrNone(m.KVBytesPerToken) }},
			{Header: "REVISION", Wide: true, Value: func(m modelItem) string { return short(m.Revision) }},
			{Header: "DIGEST", Wide: true, Value: func(m modelItem) string { return short(m.Digest) }},
		},
	}
	return list.Print(opts.streams, out, catalogue(s))
}

// catalogue merges what the nodes have; models that differ in content are different lines.
func catalogue(s *cluster.Snapshot) []modelItem {
	var items []modelItem
	for _, n := range s.Nodes {
		for _, m := range n.Models {
			i := slices.IndexFunc(items, func(x modelItem) bool { return x.Name == m.Name && x.Digest == m.Digest })
			if i < 0 {
				i = len(items)
				items = append(items, modelItem{Model: m, Nodes: []string{}, Loaded: []string{}})
			}
			items[i].Nodes = append(items[i].Nodes, n.Name)
			if slices.ContainsFunc(n.Replicas, func(r cluster.Replica) bool {
				return r.Model == m.Name && r.State == cluster.ReplicaReady
			}) {
				items[i].Loaded = append(items[i].Loaded, n.Name)
			}
		}
	}
	slices.SortStableFunc(items, func(a, b modelItem) int { return strings.Compare(a.Name, b.Name) })
	return items
}

func bytesOrNone(n int64) string {
	if n == 0 {
		return ""
	}
	return printer.Bytes(n)
}

func reading[T any](v *T, show func(T) string) string {
	if v == nil {
		return ""
	}
	return show(*v)
}

func percent(v float64) string { return strconv.FormatFloat(v, 'f', 0, 64) }
func watts(v float64) string   { return fmt.Sprintf("%.1f W", v) }

func short(digest string) string {
	digest = strings.TrimPrefix(digest, "sha256:")
	return digest[:min(12, len(digest))]
}
