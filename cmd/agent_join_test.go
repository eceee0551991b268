package cmd

import (
	"context"
	"encoding/json"
	"maps"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/mlxctl/mlxctl/internal/bootstrap/plan"
	"github.com/mlxctl/mlxctl/internal/cluster"
	"github.com/mlxctl/mlxctl/internal/enrol"
	"github.com/mlxctl/mlxctl/internal/iostreams"
	"github.com/mlxctl/mlxctl/internal/roster"
	"github.com/mlxctl/mlxctl/internal/trust"
)

// admitting runs the part of a controller that admits nodes, and returns a token of its cluster.
func admitting(t *testing.T, name string) string {
	t.Helper()
	dir := t.TempDir()
	authority, err := trust.Init(filepath.Join(dir, "trust"), name)
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := enrol.NewServer(enrol.ServerOptions{
		Authority: authority, Roster: roster.Open(filepath.Join(dir, "roster.json")),
		Settings: func() (json.RawMessage, error) { return json.Marshal(plan.Settings{Cluster: name}) },
	})
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- server.Serve(ctx, l) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	k, secret, err := authority.CreateToken(time.Now(), time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	return enrol.Token{URLs: []string{"https://" + l.Addr().String()}, Pin: authority.Pin(), ID: k.ID, Secret: secret}.String()
}

// filesIn is what the files of a folder hold.
func filesIn(t *testing.T, dir string) map[string]string {
	t.Helper()
	out := map[string]string{}
	err := filepath.WalkDir(dir, func(path string, e os.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		data, err := os.ReadFile(path)
		out[path] = string(data)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// A node of a cluster that joins another one, and cannot reach that, is what it was.
func TestJoinOfASecondClusterThatFails(t *testing.T) {
	t.Parallel()
	home := t.TempDir()
	join := func(token string, install func(ctx context.Context, home, jwt string, s plan.Settings, kind plan.UnitKind) (string, error), words ...string) int {
		s, _, _, said := iostreams.Test()
		env := map[string]string{"HOME": t.TempDir(), "MLXCTL_HOME": home, "MLXCTL_CACHE": t.TempDir()}
		d := &deps{
			streams: s, build: Build{"v1.2.3", "0123456789abcdef"}, exe: "/nonexistent/mlxctl", installNode: install,
			env: func(name string) (string, bool) { v, ok := env[name]; return v, ok },
		}
		code := run(d, []string{"agent", "join", token})
		t.Logf("exit %d: %s", code, said)
		for _, w := range words {
			if !strings.Contains(said.String(), w) {
				t.Errorf("nothing says %q", w)
			}
		}
		return code
	}
	if code := join(admitting(t, "first"), nil); code != 0 {
		t.Fatalf("exit %d", code)
	}
	before := filesIn(t, home)
	for _, name := range []string{"node.json", "agent/node.creds"} {
		if before[filepath.Join(home, name)] == "" {
			t.Errorf("the first left no %s", name)
		}
	}
	asked := false
	code := join(admitting(t, "second"), func(_ context.Context, _, jwt string, s plan.Settings, _ plan.UnitKind) (string, error) {
		asked = s.Cluster == "second" && s.CA != "" && jwt != ""
		if at := filesIn(t, home); !maps.Equal(before, at) {
			t.Errorf("the installation finds %v, was %v", at, before)
		}
		return "", cluster.Errorf(cluster.CodeUnreachable, "the agent did not reach its controller")
	}, "second has this Mac in its list already, as node ", "the token is used", "then the same command again")
	if code == 0 || !asked {
		t.Errorf("exit %d, asked: %v", code, asked)
	}
	if after := filesIn(t, home); !maps.Equal(before, after) {
		t.Errorf("after: %v, before: %v", after, before)
	}
}
