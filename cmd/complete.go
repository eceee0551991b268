package cmd

import (
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"github.com/mlxctl/mlxctl/internal/cluster"
	"github.com/mlxctl/mlxctl/internal/config"
)

// completionPatience is how long a person waits for a completion before it is a nuisance.
const completionPatience = 300 * time.Millisecond

// seen is what completion remembers of the cluster, for when it does not answer in time.
type seen struct {
	Models []string `json:"models"`
	Nodes  []string `json:"nodes"`
}

func completeModels(d *deps) cobra.CompletionFunc {
	return func(_ *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
		if len(args) > 0 {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		return d.seen().Models, cobra.ShellCompDirectiveDefault // a folder is a model too
	}
}

func completeNodes(d *deps) cobra.CompletionFunc {
	return func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
		return d.seen().Nodes, cobra.ShellCompDirectiveNoFileComp
	}
}

// seen asks the cluster, or recalls what it said last. It never fails: completion then has nothing to offer.
func (d *deps) seen() seen {
	var out seen
	dirs, err := d.dirs()
	if err != nil {
		return out
	}
	file := filepath.Join(dirs.Home, "completion.json")
	ctx, cancel := context.WithTimeout(context.Background(), completionPatience)
	defer cancel()
	if s, err := d.snapshot(ctx); err == nil {
		out = seenIn(s)
		if data, err := json.Marshal(out); err == nil {
			_ = config.WriteFile(file, data) // only a memory
		}
		return out
	}
	if data, err := os.ReadFile(file); err == nil {
		_ = json.Unmarshal(data, &out)
	}
	return out
}

func seenIn(s *cluster.Snapshot) seen {
	out := seen{Models: []string{}, Nodes: []string{}}
	for _, m := range catalogue(s) {
		out.Models = append(out.Models, m.Name)
	}
	for _, n := range s.Nodes {
		out.Nodes = append(out.Nodes, n.Name)
	}
	return out
}
