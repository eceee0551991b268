package reach_test

import (
	"context"
	"encoding/json"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/mlxctl/mlxctl/internal/bus"
	"github.com/mlxctl/mlxctl/internal/bus/bustest"
	"github.com/mlxctl/mlxctl/internal/trust"
)

// moving is set in the processes of TestNodeMoves: "host" has a network of its own and the controller, otherwise it is
// what the node needs, which has another.
const moving = "MLXCTL_TEST_MOVING"

type movingOrder struct{ Trust, URL string }

// TestNodeMoves gives a node another address in the middle of a stream, as DHCP does, and another Wi-Fi: the connection
// is dead and nobody says so.
func TestNodeMoves(t *testing.T) {
	if os.Getenv(moving) != "" {
		t.Skip("this is a part of it")
	}
	t.Parallel()
	try := exec.CommandContext(t.Context(), "unshare", "-n", "ip", "link", "add", "v0", "type", "veth", "peer", "name", "v1")
	if out, err := try.CombinedOutput(); err != nil {
		t.Skipf("this machine gives no networks of their own: %v, %s", err, out)
	}
	cmd := exec.CommandContext(t.Context(), "unshare", "-n", os.Args[0], "-test.run", "^TestMovingHost$", "-test.v")
	cmd.Env = append(os.Environ(), moving+"=host")
	out, err := cmd.CombinedOutput()
	if err != nil || !strings.Contains(string(out), "--- PASS: TestMovingHost") {
		t.Errorf("%v\n%s", err, out)
	}
	for line := range strings.Lines(string(out)) {
		if strings.Contains(line, "interrupted") {
			t.Log(strings.TrimSpace(line))
		}
	}
}

func TestMovingHost(t *testing.T) {
	if os.Getenv(moving) != "host" {
		t.Skip("TestNodeMoves runs this, in a network of its own")
	}
	network := exec.Command("unshare", "-n", "sleep", "1000")
	if err := network.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		_ = network.Process.Kill()
		_ = network.Wait()
	}()
	pid := strconv.Itoa(network.Process.Pid)
	eventually(t, "the node has a network", func() bool {
		own, _ := os.Readlink("/proc/self/ns/net")
		its, err := os.Readlink("/proc/" + pid + "/ns/net")
		exe, _ := os.Readlink("/proc/" + pid + "/exe")
		return err == nil && its != own && strings.Contains(exe, "sleep")
	})
	run := func(line string) {
		t.Helper()
		words := strings.Fields(line)
		if out, err := exec.Command(words[0], words[1:]...).CombinedOutput(); err != nil {
			t.Fatalf("%s: %v, %s", line, err, out)
		}
	}
	there := "nsenter -t " + pid + " -n ip "
	for _, line := range []string{
		"ip link set lo up", "ip link add v0 type veth peer name v1", "ip link set v1 netns " + pid,
		"ip addr add 10.77.0.1/24 dev v0", "ip link set v0 up",
		there + "link set lo up", there + "addr add 10.77.0.2/24 dev v1", there + "link set v1 up",
	} {
		run(line)
	}
	s := &site{bustest.Prepare(t)}
	s.Server = s.Start(t, "10.77.0.1:0", nil)
	order, err := json.Marshal(movingOrder{filepath.Dir(s.Authority.APIKeyPath()), s.Server.URL()})
	if err != nil {
		t.Fatal(err)
	}
	agent := exec.Command("nsenter", "-t", pid, "-n", os.Args[0], "-test.run", "^TestMovingNode$", "-test.v")
	agent.Env = append(os.Environ(), moving+"="+string(order))
	agent.Stdout, agent.Stderr = os.Stdout, os.Stderr
	stdin, err := agent.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := agent.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		_ = stdin.Close()
		if err := agent.Wait(); err != nil {
			t.Errorf("the node: %v", err)
		}
	}()
	ctl := s.controller(t)
	call := bus.StreamCall{
		Subject: bus.CommandSubject(node, bus.VerbInfer), Reply: bus.ReplySubject(node, "x"), Control: bus.ControlSubject(node), ID: "x", Gap: patience,
	}
	var stream *bus.Stream
	eventually(t, "the node is there", func() bool {
		stream, err = ctl.OpenStream(t.Context(), call)
		return err == nil
	})
	defer stream.Close()
	const count = 600
	var longest time.Duration
	last := time.Now()
	for i := range count {
		if i == 100 {
			run(there + "addr del 10.77.0.2/24 dev v1")
			run(there + "addr add 10.77.0.3/24 dev v1")
		}
		next(t, stream, i)
		longest = max(longest, time.Since(last))
		last = time.Now()
	}
	t.Logf("the stream was interrupted for %s", longest)
	if longest > 30*time.Second { // without a mend it is minutes
		t.Errorf("that is too long")
	}
}

func TestMovingNode(t *testing.T) {
	var order movingOrder
	if err := json.Unmarshal([]byte(os.Getenv(moving)), &order); err != nil {
		t.Skip("TestNodeMoves runs this, in a network of its own")
	}
	authority, err := trust.Open(order.Trust)
	if err != nil {
		t.Fatal(err)
	}
	s := &site{&bustest.Site{Authority: authority}}
	e := s.agent(t, s.options(), s.Agent(t, node), order.URL)
	sub, err := e.conn.ServeStreams(bus.CommandSubject(node, bus.VerbInfer), bus.ControlSubject(node), 4,
		func(ctx context.Context, _ func(any) error, w *bus.StreamWriter) error {
			tick := time.NewTicker(2 * time.Millisecond)
			defer tick.Stop()
			for i := 0; ; i++ {
				if err := w.Send(i); err != nil {
					return err
				}
				select {
				case <-ctx.Done():
					return context.Cause(ctx)
				case <-tick.C:
				}
			}
		})
	if err != nil {
		t.Fatal(err)
	}
	defer sub.Close()
	_, _ = io.Copy(io.Discard, os.Stdin) // until who started this is through
}
