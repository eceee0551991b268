package cmd

import (
	"flag"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/mlxctl/mlxctl/internal/cluster"
)

var update = flag.Bool("update", false, "write goldens anew")

func golden(t *testing.T, name, got string) {
	t.Helper()
	path := filepath.Join("testdata", "golden", name)
	if *update {
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(got), 0o600); err != nil {
			t.Fatal(err)
		}
		return
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), got); diff != "" {
		t.Errorf("%s: %s", name, diff)
	}
}

// The shapes of JSON only grow; tables are for people.
func TestListings(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"ps", "nodes", "models"} {
		for _, format := range []string{"table", "wide", "json", "yaml", "name"} {
			r := invocation{cluster: &fakeCluster{state: twoMacs()}}.run(t, name, "-o", format)
			if r.code != 0 || r.err != "" {
				t.Errorf("%s -o %s: %+v", name, format, r)
			}
			golden(t, name+"."+format, r.out)
		}
	}
	for _, args := range [][]string{{"top"}, {"top", "--once", "-o", "json"}} {
		r := invocation{cluster: &fakeCluster{state: twoMacs()}}.run(t, args...)
		if r.code != 0 || r.err != "" {
			t.Errorf("%v: %+v", args, r)
		}
		golden(t, strings.Join(args, ""), r.out)
	}
}

func TestEmptyListings(t *testing.T) {
	t.Parallel()
	empty := &fakeCluster{state: &cluster.Snapshot{}}
	for name, want := range map[string]string{
		"ps":     "no model is in memory; `mlxctl run` or `mlxctl load` brings one there\n",
		"nodes":  "no nodes; run `mlxctl up`\n",
		"models": "no models; is a node ready? see `mlxctl nodes`\n",
	} {
		if r := (invocation{cluster: empty}).run(t, name); r != (result{0, "", want}) {
			t.Errorf("%s: %+v", name, r)
		}
		if r := (invocation{cluster: empty}).run(t, name, "--json"); r != (result{0, "{\n  \"items\": []\n}\n", ""}) {
			t.Errorf("%s --json: %+v", name, r)
		}
	}
}

func TestStateOfADrainingNode(t *testing.T) {
	t.Parallel()
	for want, drained := range map[string]bool{" draining ": false, " drained ": true} {
		s := twoMacs()
		s.Nodes[1].State, s.Nodes[1].Drained = cluster.NodeDraining, drained
		for _, command := range []string{"nodes", "top"} {
			if r := (invocation{cluster: &fakeCluster{state: s}}).run(t, command); r.code != 0 || !strings.Contains(r.out, want) {
				t.Errorf("%s, want %q: %+v", command, want, r)
			}
		}
	}
}

func TestTopSamples(t *testing.T) {
	t.Parallel()
	f := &fakeCluster{state: twoMacs()}
	r := invocation{cluster: f}.run(t, "top", "-n", "3", "--interval", "100ms", "-o", "json")
	if n := strings.Count(r.out, "\n"); r.code != 0 || n != 3 {
		t.Errorf("%d lines: %+v", n, r)
	}
	if r := (invocation{cluster: f}).run(t, "top", "--interval", "1ms"); r.code != exitUsage {
		t.Errorf("interval: %+v", r)
	}
}

func TestLoadUnload(t *testing.T) {
	t.Parallel()
	f := &fakeCluster{state: twoMacs()}
	if r := (invocation{cluster: f}).run(t, "load", "tiny", "--node", "studio", "--pin"); r != (result{0, "", "loading tiny…\ntiny is loaded\n"}) {
		t.Errorf("load: %+v", r)
	}
	if r := (invocation{cluster: f}).run(t, "unload", "tiny", "--force", "-o", "yaml"); r != (result{0, "model: tiny\nloaded: false\n", ""}) {
		t.Errorf("unload: %+v", r)
	}
	if diff := cmp.Diff([]string{"tiny@n-studio pinned", "-tiny@ forced"}, f.loaded); diff != "" {
		t.Error(diff)
	}
	f.err = cluster.Errorf(cluster.CodeNoFit, "tiny needs 1.0 GiB, and no node has more than 0.5 GiB")
	if r := (invocation{cluster: f}).run(t, "load", "tiny", "-q"); r != (result{5, "", "mlxctl: load: tiny needs 1.0 GiB, and no node has more than 0.5 GiB\n"}) {
		t.Errorf("no fit: %+v", r)
	}
}

// Names that come from elsewhere cannot drive the terminal.
func TestHostileNames(t *testing.T) {
	t.Parallel()
	s := twoMacs()
	s.Nodes[0].Name = "x\x1b]0;gotcha\a\x1b[2J"
	r := invocation{cluster: &fakeCluster{state: s}}.run(t, "top", "--once")
	if strings.ContainsAny(r.out, "\x1b\a") {
		t.Errorf("%q", r.out)
	}
}

// What -o name prints can be given to other commands, by xargs as well.
func TestNodesAreNamedByWords(t *testing.T) {
	t.Parallel()
	var s cluster.Snapshot
	for i, name := range []string{"mini", "Studio", "studio", "Fred’s Mac", "no-break\u00a0space", "-rf", "a\"b", "", "Büro"} {
		s.Nodes = append(s.Nodes, cluster.Node{ID: cluster.NodeID("n-" + strconv.Itoa(i)), Name: name})
	}
	want := "mini\nn-1\nn-2\nn-3\nn-4\nn-5\nn-6\nn-7\nBüro\n"
	if r := (invocation{cluster: &fakeCluster{state: &s}}).run(t, "nodes", "-o", "name"); r != (result{0, want, ""}) {
		t.Errorf("%+v", r)
	}
}
