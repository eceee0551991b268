package controller_test

import (
	"context"
	"encoding/json"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/mlxctl/mlxctl/agent"
	"github.com/mlxctl/mlxctl/internal/bus"
	"github.com/mlxctl/mlxctl/internal/bus/bustest"
	"github.com/mlxctl/mlxctl/internal/cluster"
	"github.com/mlxctl/mlxctl/internal/library"
	"github.com/mlxctl/mlxctl/internal/trust"
	"github.com/mlxctl/mlxctl/mlxbridge/enginetest"
)

// sleeper is set, to what it needs, in the process that is stopped.
const sleeper = "MLXCTL_TEST_SLEEPER"

type sleeperOrder struct{ Trust, URL string }

// A laptop whose lid closes stands still with open connections. It is suspect, then down; its streams fail and say so;
// and when it wakes up it serves again at once.
func TestLaptopSleepsAndReturns(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	c := s.controller(t, nil)
	order, err := json.Marshal(sleeperOrder{filepath.Dir(s.Authority.APIKeyPath()), s.Server.URL()})
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(os.Args[0], "-test.run", "^TestSleepingAgent$", "-test.v")
	cmd.Env = append(os.Environ(), sleeper+"="+string(order))
	var out strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &out
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGCONT)
		_ = stdin.Close() // it ends then
		if err := cmd.Wait(); err != nil {
			t.Errorf("the agent: %v\n%s", err, out.String())
		}
	})
	c.ready(t, "laptop")
	stream := c.background(t, ask("Count from 1 to 4000.", on("laptop")))
	c.streaming(t, 1)
	var states []cluster.NodeState
	ctx, cancel := context.WithTimeout(t.Context(), 2*patience)
	defer cancel()
	watch := c.Watch(ctx)
	until := func(want cluster.NodeState) {
		t.Helper()
		for snap := range watch {
			for _, n := range snap.Nodes {
				if n.ID == "laptop" && (len(states) == 0 || states[len(states)-1] != n.State) {
					states = append(states, n.State)
				}
			}
			if states[len(states)-1] == want {
				return
			}
		}
		t.Fatalf("it never was %s: %v", want, states)
	}
	if err := cmd.Process.Signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	until(cluster.NodeDown)
	got := wait(t, "the stream fails", stream)
	code(t, got.err, cluster.CodeNodeLost, "mac-laptop")
	names(t, got.err, "laptop")
	if !strings.HasPrefix(enginetest.Counted(1, 4000), got.text) || got.text == "" {
		t.Errorf("what came is no part of the answer: %q", got.text)
	}
	woken := time.NewTimer(3 * time.Second) // the server has hung up on it by then
	defer woken.Stop()
	<-woken.C
	if err := cmd.Process.Signal(syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	until(cluster.NodeReady)
	if got := c.ask(t.Context(), ask("Count from 1 to 5.", on("laptop"))); got.err != nil || got.text != "1, 2, 3, 4, 5" {
		t.Errorf("after the sleep: %q, %v", got.text, got.err)
	}
	// Others may be between them: on a slow machine it may be late by itself.
	left := []cluster.NodeState{cluster.NodeReady, cluster.NodeSuspect, cluster.NodeDown, cluster.NodeReady}
	for _, state := range states {
		if len(left) > 0 && state == left[0] {
			left = left[1:]
		}
	}
	if len(left) > 0 {
		t.Errorf("its states were %v, without %v in their order", states, left)
	}
}

// TestSleepingAgent is the process that TestLaptopSleepsAndReturns stops.
func TestSleepingAgent(t *testing.T) {
	var order sleeperOrder
	if err := json.Unmarshal([]byte(os.Getenv(sleeper)), &order); err != nil {
		t.Skip("TestLaptopSleepsAndReturns runs this, in a process of its own")
	}
	authority, err := trust.Open(order.Trust)
	if err != nil {
		t.Fatal(err)
	}
	lib, err := library.Open(library.Options{CacheDir: t.TempDir(), HubDirs: []string{t.TempDir()}})
	if err != nil {
		t.Fatal(err)
	}
	a := agent.New(agent.Options{
		Bus: bus.Options{
			URLs: []string{order.URL}, RootCAs: authority.CAPool(), ServerName: authority.ServerName(), HandshakeFirst: true,
			Credentials: bustest.Credentials(t, func(pub string) (string, error) { return authority.SignAgent(pub, "laptop") }),
		},
		ID: "laptop", Name: "mac-laptop", Home: t.TempDir(), Library: lib, Monitor: mac{},
		Launcher: enginetest.NewLauncher(enginetest.Script{TokensPerSecond: 200}), Grace: -1,
	})
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		defer cancel()
		_, _ = io.Copy(io.Discard, os.Stdin) // until who started this is through
	}()
	if err := a.Run(ctx); err != nil {
		t.Error(err)
	}
}
