package roster_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/mlxctl/mlxctl/internal/cluster"
	"github.com/mlxctl/mlxctl/internal/roster"
)

func node(id, name string) roster.Node {
	return roster.Node{ID: cluster.NodeID(id), Name: name, Key: "U" + id, By: "ssh", AddedAt: time.Unix(1_700_000_000, 0).UTC()}
}

func open(t *testing.T) *roster.Roster {
	t.Helper()
	return roster.Open(filepath.Join(t.TempDir(), "home", "roster.json"))
}

func put(t *testing.T, r *roster.Roster, nodes ...roster.Node) {
	t.Helper()
	for _, n := range nodes {
		if err := r.Put(n); err != nil {
			t.Fatal(err)
		}
	}
}

func ids(t *testing.T, r *roster.Roster) string {
	t.Helper()
	nodes, err := r.List()
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, n := range nodes {
		out = append(out, string(n.ID))
	}
	return strings.Join(out, " ")
}

func TestListIsByNameAndLasts(t *testing.T) {
	t.Parallel()
	r := open(t)
	if at, err := r.ModTime(); err != nil || !at.IsZero() || ids(t, r) != "" {
		t.Errorf("an empty roster changed at %v, %v", at, err)
	}
	put(t, r, node("c", "attic"), node("b", "studio"), node("a", "studio"))
	changed := node("c", "zoo")
	changed.Addresses, changed.Reverse = []string{"10.0.0.7"}, []string{"10.0.0.7:8661"}
	put(t, r, changed)
	if got := ids(t, roster.Open(r.Path())); got != "a b c" {
		t.Errorf("list is %q", got)
	}
	got, err := r.Find("c")
	if err != nil || fmt.Sprint(got) != fmt.Sprint(changed) {
		t.Errorf("read back %+v, %v", got, err)
	}
	if err := r.Remove("b"); err != nil {
		t.Fatal(err)
	}
	if err := r.Remove("b"); err != nil {
		t.Errorf("removed again: %v", err)
	}
	if got := ids(t, r); got != "a c" {
		t.Errorf("list is %q", got)
	}
	info, err := os.Stat(r.Path())
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("file is %v, %v", info, err)
	}
	entries, err := os.ReadDir(filepath.Dir(r.Path()))
	if err != nil || len(entries) != 1 {
		t.Errorf("beside the roster there is %v, %v", entries, err)
	}
}

func TestFind(t *testing.T) {
	t.Parallel()
	r := open(t)
	put(t, r, node("a", "Studio"), node("b", "mini"), node("c", "Mini"), node("mini", "other"))
	for ask, want := range map[string]string{"a": "a", "studio": "a", "STUDIO": "a", "b": "b", "mini": "mini"} {
		if got, err := r.Find(ask); err != nil || string(got.ID) != want {
			t.Errorf("Find(%q) gave %q, %v, want %q", ask, got.ID, err, want)
		}
	}
	if _, err := r.Find("MINI"); cluster.CodeOf(err) != cluster.CodeConflict || !strings.Contains(cluster.AsError(err).Hint, "b, c") &&
		!strings.Contains(cluster.AsError(err).Hint, "c, b") {
		t.Errorf("two of a name: %v, %q", err, cluster.AsError(err).Hint)
	}
	if _, err := r.Find("studi"); cluster.CodeOf(err) != cluster.CodeNoNode || !strings.Contains(cluster.AsError(err).Hint, "Studio") {
		t.Errorf("none of a name: %v", err)
	}
}

func TestAdmitTakesNoIDOrKeyOfAnother(t *testing.T) {
	t.Parallel()
	r := open(t)
	put(t, r, node("a", "studio"))
	thief := node("a", "thief")
	thief.Key = "Uthief"
	other := node("b", "two faces")
	other.Key = "Ua"
	for _, n := range []roster.Node{thief, other} {
		if err := r.Admit(n); cluster.CodeOf(err) != cluster.CodeConflict {
			t.Errorf("admitted %+v: %v", n, err)
		}
	}
	again := node("a", "studio, again")
	if err := r.Admit(again); err != nil {
		t.Error(err)
	}
	if got, _ := r.Find("a"); got.Name != again.Name || got.Key != "Ua" {
		t.Errorf("the list has %+v", got)
	}
}

func TestDamagedFileIsSaidAndKept(t *testing.T) {
	t.Parallel()
	for name, text := range map[string]string{
		"cut off": `{"version":1,"nodes":[{"id":"a"`, "of a later version": `{"version":9,"nodes":[]}`, "empty": "",
		"twice": `{"version":1,"nodes":[{"id":"a"},{"id":"a"}]}`, "no id": `{"version":1,"nodes":[{"name":"x"}]}`,
		"too long": `{"version":1,"nodes":[]}` + strings.Repeat(" ", 8<<20),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			path := filepath.Join(t.TempDir(), "roster.json")
			if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
			r := roster.Open(path)
			_, listErr := r.List()
			for _, err := range []error{listErr, r.Put(node("b", "b")), r.Remove("a")} {
				e := cluster.AsError(err)
				if e == nil || e.Code != cluster.CodeConflict || !strings.Contains(e.Message, path) || e.Hint == "" {
					t.Errorf("got %v", err)
				}
			}
			if after, err := os.ReadFile(path); err != nil || string(after) != text {
				t.Errorf("the file was changed: %v", err)
			}
		})
	}
}

func TestUnknownFieldsAreDropped(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "roster.json")
	if err := os.WriteFile(path, []byte(`{"version":1,"x":1,"nodes":[{"id":"a","y":2}]}`), 0o600); err != nil {
		t.Fatal(err)
	}
	r := roster.Open(path)
	put(t, r, node("b", "b"))
	data, err := os.ReadFile(path)
	if err != nil || strings.Contains(string(data), `"x"`) || strings.Contains(string(data), `"y"`) || ids(t, r) != "a b" {
		t.Errorf("file holds %s, %v", data, err)
	}
}

func TestChangesAtTheSameTimeAllCount(t *testing.T) {
	t.Parallel()
	r := open(t)
	var wg sync.WaitGroup
	for i := range 16 {
		wg.Go(func() {
			if err := roster.Open(r.Path()).Put(node(fmt.Sprintf("n%02d", i), "n")); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if got := strings.Fields(ids(t, r)); len(got) != 16 {
		t.Errorf("the list has %v", got)
	}
}

func TestUpdateChangesOnlyWhatIsThere(t *testing.T) {
	t.Parallel()
	r := open(t)
	put(t, r, node("n1", "one"))
	if err := r.Update("n1", func(n *roster.Node) { n.Key = "Unew" }); err != nil {
		t.Fatal(err)
	}
	if n, err := r.Find("n1"); err != nil || n.Key != "Unew" || n.Name != "one" {
		t.Errorf("%+v, %v", n, err)
	}
	err := r.Update("n2", func(*roster.Node) { t.Error("changed a node that is not there") })
	if nodes, _ := r.List(); cluster.CodeOf(err) != cluster.CodeNoNode || len(nodes) != 1 {
		t.Errorf("%+v, %v", nodes, err)
	}
}
