package doctor_test

import (
	"context"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/mlxctl/mlxctl/internal/bootstrap/plan"
	"github.com/mlxctl/mlxctl/internal/cluster"
	"github.com/mlxctl/mlxctl/internal/doctor"
)

// node is an installed node's home.
type node struct {
	t    *testing.T
	home string
}

func install(t *testing.T, version string) node {
	t.Helper()
	n := node{t, t.TempDir()}
	n.write("node.json", "{}")
	n.write(filepath.Join("versions", version, "mlxctl"), "")
	if err := os.Symlink(filepath.Join("versions", version), filepath.Join(n.home, "current")); err != nil {
		t.Fatal(err)
	}
	return n
}

func (n node) write(name, text string) {
	n.t.Helper()
	path := filepath.Join(n.home, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		n.t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		n.t.Fatal(err)
	}
}

func (n node) link(l plan.Link) {
	n.t.Helper()
	l.At = time.Date(2026, 11, 28, 9, 0, 0, 0, time.UTC)
	data, err := json.Marshal(l)
	if err != nil {
		n.t.Fatal(err)
	}
	n.write("run/link.json", string(data))
}

// look finds everything by its check.
func (n node) look(change func(*doctor.NodeOptions)) map[string][]plan.Finding {
	n.t.Helper()
	o := doctor.NodeOptions{Home: n.home, OS: "linux"}
	if change != nil {
		change(&o)
	}
	out := map[string][]plan.Finding{}
	for _, f := range doctor.Node(n.t.Context(), o) {
		out[f.Check] = append(out[f.Check], f)
	}
	return out
}

// ended is the id of a process that is no more.
func ended(t *testing.T) int {
	t.Helper()
	cmd := exec.Command("true")
	if err := cmd.Run(); err != nil {
		t.Fatal(err)
	}
	return cmd.Process.Pid
}

func TestNodeThatServes(t *testing.T) {
	t.Parallel()
	n := install(t, "v1.2.3-0123456789ab")
	n.link(plan.Link{State: plan.LinkConnected, PID: os.Getpid(), Version: "v1.2.3", URL: "tls://10.0.0.1:8660"})
	got := n.look(nil)
	has(t, got["unit"], plan.FindingOK, "the agent runs")
	has(t, got["version"], plan.FindingOK, "v1.2.3-0123456789ab")
	has(t, got["link"], plan.FindingOK, "connected to tls://10.0.0.1:8660")
	if len(got["disk"]) != 1 {
		t.Errorf("disk: %+v", got["disk"])
	}
	has(t, doctor.JudgeClock(got["clock"], 300*time.Millisecond, 600*time.Millisecond), plan.FindingOK, "agrees, measured to within 1.2s")
	has(t, doctor.JudgeClock(got["clock"], 10*time.Second, 600*time.Millisecond), plan.FindingWarn, "9s ahead")
	has(t, doctor.JudgeClock(got["clock"], 10*time.Second, 20*time.Second), plan.FindingOK, "agrees")
	has(t, doctor.JudgeClock(got["clock"], -time.Hour, time.Second), plan.FindingFail, "59m59s behind")
	has(t, doctor.JudgeClock(got["clock"], 0, 0), plan.FindingSkip, "not measured")
}

func TestNodeThatDoesNot(t *testing.T) {
	t.Parallel()
	empty := node{t, t.TempDir()}.look(nil)
	has(t, empty["unit"], plan.FindingFail, "no agent is installed")
	has(t, empty["version"], plan.FindingFail, "no version is installed")
	has(t, empty["link"], plan.FindingSkip, "has not said")

	dead := install(t, "v1.2.3-0123456789ab")
	dead.link(plan.Link{State: plan.LinkConnected, PID: ended(t), Version: "v1.2.3"})
	dead.write("log/agent.log", "first\nlevel=ERROR msg=\"cannot start\"\n")
	got := dead.look(nil)
	has(t, got["unit"], plan.FindingFail, `it ran last at 2026-11-28T09:00:00Z; its log ends with: level=ERROR msg="cannot start"`)
	has(t, got["link"], plan.FindingSkip, "does not run")

	old := install(t, "v1.3.0-0123456789ab")
	old.link(plan.Link{State: plan.LinkConnected, PID: os.Getpid(), Version: "v1.2.3"})
	has(t, old.look(nil)["version"], plan.FindingWarn, "v1.3.0-0123456789ab is installed and v1.2.3 runs")

	half := install(t, "v1.3.0-0123456789ab")
	if err := os.Remove(filepath.Join(half.home, "current", "mlxctl")); err != nil {
		t.Fatal(err)
	}
	has(t, half.look(nil)["version"], plan.FindingFail, "is not whole")

	for state, part := range map[plan.LinkState]string{
		plan.LinkDenied: "macOS lets the agent reach nobody", plan.LinkRefused: "does not believe this node", plan.LinkConnecting: "has not reached its controller since 2026",
	} {
		old.link(plan.Link{State: state, PID: os.Getpid(), Version: "v1.3.0"})
		has(t, old.look(nil)["link"], plan.FindingFail, part)
	}
	old.link(plan.Link{State: plan.LinkConnected, Reverse: true, PID: os.Getpid(), Version: "v1.3.0"})
	has(t, old.look(nil)["link"], plan.FindingWarn, "the controller dials it")
}

func TestNodeAsksWorkersInTurn(t *testing.T) {
	t.Parallel()
	n := install(t, "v1")
	says := func(said string, err error) func(context.Context) (string, error) {
		return func(context.Context) (string, error) { return said, err }
	}
	broken := cluster.Errorf(cluster.CodeInternal, "no libmlx").WithHint("macOS 14 or later")
	got := n.look(func(o *doctor.NodeOptions) { o.Python, o.SelfTest = says("3.13", nil), says("a token", nil) })
	has(t, got["python"], plan.FindingOK, "3.13")
	has(t, got["worker"], plan.FindingOK, "a token")
	got = n.look(func(o *doctor.NodeOptions) { o.Python, o.SelfTest = says("3.13", nil), says("", broken) })
	has(t, got["worker"], plan.FindingFail, "no libmlx")
	if got["worker"][0].Fix != "macOS 14 or later" {
		t.Errorf("the error's own hint is lost: %+v", got["worker"])
	}
	got = n.look(func(o *doctor.NodeOptions) { o.Python, o.SelfTest = says("", broken), says("a token", nil) })
	has(t, got["python"], plan.FindingFail, "no libmlx")
	if len(got["worker"]) > 0 {
		t.Error("a worker was started in a broken environment")
	}
}

func TestNodeOfAMac(t *testing.T) {
	t.Parallel()
	n := install(t, "v1")
	const pmset = "System-wide power settings:\nCurrently in use:\n standby              1\n Sleep On Power Button 1\n womp                 1\n"
	for _, test := range []struct {
		name, sysctl, pmset string
		check               string
		state               plan.FindingKind
		part                string
	}{
		{"default", "0\n68719476736\n", pmset + " sleep                0\n lowpowermode         0\n", "wired-limit", plan.FindingOK, "macOS decides"},
		{"stays awake", "0\n68719476736\n", pmset + " sleep                0\n lowpowermode         0\n", "power", plan.FindingOK, "stays awake"},
		{"limit with room", "57344\n68719476736\n", pmset, "wired-limit", plan.FindingOK, "56 GiB"},
		{"limit without", "63488\n68719476736\n", pmset, "wired-limit", plan.FindingWarn, "leaves macOS 2.0 GiB"},
		{"sleeps", "0\n1\n", pmset + " sleep                10 (sleep prevented by caffeinate)\n", "power", plan.FindingWarn, "sleeps after 10 min"},
		{"low power", "0\n1\n", pmset + " sleep                0\n lowpowermode         1\n", "power", plan.FindingWarn, "low power mode"},
		{"no such setting", "sysctl: unknown", "", "wired-limit", plan.FindingSkip, "sysctl says"},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			got := node{t, n.home}.look(func(o *doctor.NodeOptions) {
				o.OS, o.Tool = "darwin", tools(map[string]string{"sysctl -n iogpu.wired_limit_mb hw.memsize": test.sysctl, "pmset -g": test.pmset})
			})
			has(t, got[test.check], test.state, test.part)
		})
	}
	own := n.look(func(o *doctor.NodeOptions) { o.OS, o.Own, o.Tool = "darwin", true, tools(nil) })
	var names []string
	for name := range own {
		names = append(names, name)
	}
	slices.Sort(names)
	if !slices.Equal(names, []string{"power", "wired-limit"}) {
		t.Errorf("the operator's own node: %v", names)
	}
}
