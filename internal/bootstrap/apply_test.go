package bootstrap_test

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/mlxctl/mlxctl/internal/bootstrap"
	"github.com/mlxctl/mlxctl/internal/bootstrap/plan"
	"github.com/mlxctl/mlxctl/internal/cluster"
)

// testJob installs this executable; its host's side does what the script says.
func testJob(tb testing.TB, f *far, script string) bootstrap.Job {
	tb.Helper()
	return bootstrap.Job{
		Order: plan.Order{Action: plan.Install, Operator: script, Home: filepath.Join(f.home, "node's home"), Password: "s3cret"},
		Binary: func(_, _ string) (string, string, error) {
			self, err := os.Executable()
			if err != nil {
				return "", "", err
			}
			id, err := bootstrap.VersionID("1.0", self)
			return self, id, err
		},
		Sign: func(_ context.Context, node cluster.NodeID, key, hardware string) (string, error) {
			return "jwt of " + string(node) + " " + key + " " + hardware, nil
		},
		Prove: func(_ context.Context, node cluster.NodeID, _ string, link plan.Link) error {
			if node != "n1" || link.State != plan.LinkConnected {
				return errors.New("not the node")
			}
			return nil
		},
	}
}

func recorded(tb testing.TB, job bootstrap.Job, name string) string {
	tb.Helper()
	data, err := os.ReadFile(filepath.Join(job.Order.Home, name))
	if err != nil {
		return ""
	}
	return string(data)
}

func TestInstall(t *testing.T) {
	t.Parallel()
	b, h, f := ready(t)
	job := testJob(t, f, "install")
	wheels := t.TempDir()
	content := []byte("not really a wheel")
	sum := sha256.Sum256(content)
	write(t, filepath.Join(wheels, "a-1.whl"), content)
	job.Wheels = func(context.Context, string, string, string) (string, []plan.File, error) {
		return wheels, []plan.File{{Name: "a-1.whl", Bytes: int64(len(content)), SHA256: hex.EncodeToString(sum[:])}}, nil
	}
	var steps []string
	tell := func(e bootstrap.Event) {
		if e.Err != nil {
			t.Errorf("event is %+v", e)
		}
		if e.State != plan.StateRunning {
			steps = append(steps, e.Step)
		}
	}
	r, err := b.Apply(t.Context(), h, job, tell)
	if err != nil {
		t.Fatal(err)
	}
	want := []string{
		plan.StepCopy, plan.StepLock, plan.StepIdentity, plan.StepJoin, plan.StepPython, plan.StepUnit, plan.StepLink, plan.StepProve, plan.StepCommit,
	}
	if !slices.Equal(steps, want) {
		t.Errorf("steps were %v, want %v", steps, want)
	}
	if r.Node != "n1" || r.Key != "UKEY" || r.Hardware != "hw" || r.Unit != plan.UnitKeeper || !r.Changed || r.Link == nil || r.Home != job.Order.Home {
		t.Errorf("result is %+v", r)
	}
	if got := recorded(t, job, "jwt"); got != "jwt of n1 UKEY hw" {
		t.Errorf("credentials are %q", got)
	}
	if got := recorded(t, job, "committed"); got != "s3cret" {
		t.Errorf("password is %q", got)
	}
	if got := recorded(t, job, "cache/wheels/a-1.whl"); got != string(content) {
		t.Errorf("wheel is %q", got)
	}
	self, _ := os.Executable()
	there := filepath.Join(job.Order.Home, "versions", r.VersionID, "mlxctl")
	before, err := os.Stat(there)
	if err != nil || before.Mode().Perm() != 0o755 {
		t.Fatalf("binary is %v, %v", before, err)
	}
	one, _ := bootstrap.VersionID("1.0", self)
	if two, _ := bootstrap.VersionID("1.0", there); one != two || one != r.VersionID {
		t.Errorf("binary there is %s, want %s", two, one)
	}
	// Again: the binary is right already.
	var state plan.State
	if _, err := b.Apply(t.Context(), h, job, func(e bootstrap.Event) {
		if e.Step == plan.StepCopy {
			state = e.State
		}
	}); err != nil {
		t.Fatal(err)
	}
	if after, err := os.Stat(there); err != nil || state != plan.StateOK || !os.SameFile(before, after) {
		t.Errorf("copied again: %s, %v", state, err)
	}
}

func TestHostThatDiesAtAStep(t *testing.T) {
	t.Parallel()
	b, h, f := ready(t)
	for _, step := range []string{plan.StepLock, plan.StepIdentity, plan.StepJoin, plan.StepPython, plan.StepUnit, plan.StepLink, plan.StepCommit} {
		job := testJob(t, f, "crash:"+step)
		_, err := b.Apply(t.Context(), h, job, nil)
		if err == nil {
			t.Fatalf("at %s: no error", step)
		}
		has(t, err.Error(), "panic: at "+step)
		if strings.Contains(err.Error(), "\x1b") || cluster.AsError(err).Hint == "" {
			t.Errorf("error is %q, want a clean one with a hint", err)
		}
		if goesBack := strings.Contains(cluster.AsError(err).Hint, "goes back"); goesBack != (step != plan.StepCommit) {
			t.Errorf("at %s: hint is %q", step, cluster.AsError(err).Hint)
		}
	}
	if _, err := b.Apply(t.Context(), h, testJob(t, f, "install"), nil); err != nil {
		t.Errorf("the next time: %v", err)
	}
}

func TestHostThatDoesNotSpeakAsItShould(t *testing.T) {
	t.Parallel()
	b, h, f := ready(t)
	for script, says := range map[string]string{
		"endless": "too long", "much": "too much", "twice": "another signature", "wants:../../etc/passwd": "not offered",
		"outside:/etc": "not offered", "outside:" + f.home + "/node's home/../x": "not offered",
	} {
		job := testJob(t, f, script)
		job.Wheels = func(context.Context, string, string, string) (string, []plan.File, error) {
			return "/etc", []plan.File{{Name: "hostname"}}, nil
		}
		_, err := b.Apply(t.Context(), h, job, nil)
		if err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%s: error is %v, want %q", script, err, says)
		}
	}
	if r, err := b.Apply(t.Context(), h, testJob(t, f, "garbage"), nil); err != nil || r.Node != "n1" {
		t.Errorf("garbage between messages: %+v, %v", r, err)
	}
	r, err := b.Apply(t.Context(), h, testJob(t, f, "refuses"), nil)
	if cluster.CodeOf(err) != cluster.CodeConflict || err.Error() != "locked by anna again" {
		t.Errorf("error is %q", err)
	}
	if len(r.Log) != 1 || r.Log[0] != "no metal" {
		t.Errorf("log is %q", r.Log)
	}
}

// Whoever had one node signed cannot be another by saying so.
func TestHostThatSaysItIsAnotherNode(t *testing.T) {
	t.Parallel()
	b, h, f := ready(t)
	for in, says := range map[string]string{
		plan.TypeStep: "says it is another node", plan.TypeLinked: "says it is another node", plan.TypeDone: "says it is another node",
		"unsigned": "had no key signed",
	} {
		job := testJob(t, f, "poses:"+in)
		job.Order.Home += in
		r, err := b.Apply(t.Context(), h, job, nil)
		if cluster.CodeOf(err) != cluster.CodeUnauthorized || !strings.Contains(err.Error(), says) {
			t.Errorf("%s: error is %v", in, err)
		}
		if in != "unsigned" && (r.Node != "n1" || r.Key != "UKEY") {
			t.Errorf("%s: result is %+v", in, r)
		}
		if in != plan.TypeDone && recorded(t, job, "aborted") == "" {
			t.Errorf("%s: it was not told to undo everything", in)
		}
	}
}

func TestWhatWeDoNotAgreeToIsUndone(t *testing.T) {
	t.Parallel()
	b, h, f := ready(t)
	refuse := errors.New("no answer of tiny")
	for name, change := range map[string]func(*bootstrap.Job){
		"sign": func(j *bootstrap.Job) {
			j.Sign = func(context.Context, cluster.NodeID, string, string) (string, error) { return "", refuse }
		},
		"prove": func(j *bootstrap.Job) {
			j.Prove = func(context.Context, cluster.NodeID, string, plan.Link) error { return refuse }
		},
	} {
		job := testJob(t, f, "install")
		job.Order.Home += name
		change(&job)
		if _, err := b.Apply(t.Context(), h, job, nil); !errors.Is(err, refuse) {
			t.Errorf("%s: error is %v", name, err)
		}
		if recorded(t, job, "aborted") != refuse.Error() || recorded(t, job, "committed") != "" {
			t.Errorf("%s was not undone", name)
		}
	}
}

func TestInterruptedInstallationIsRolledBackByTheHost(t *testing.T) {
	t.Parallel()
	b, h, f := ready(t)
	job := testJob(t, f, "silent")
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	_, err := b.Apply(ctx, h, job, func(e bootstrap.Event) {
		if e.Step == plan.StepLock {
			cancel()
		}
	})
	if !errors.Is(err, context.Canceled) {
		t.Errorf("error is %v", err)
	}
	eventually(t, "the host rolls back", func() bool { return recorded(t, job, "rolled-back") == "yes" })
}

func TestFrozenHostKeepsNobodyWaiting(t *testing.T) {
	t.Parallel()
	b, h, f := ready(t)
	job := testJob(t, f, "frozen")
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	_, err := b.Apply(ctx, h, job, func(e bootstrap.Event) {
		if e.Step == plan.StepLock {
			cancel()
		}
	})
	if !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	pid, err := strconv.Atoi(recorded(t, job, "pid"))
	if err != nil {
		t.Fatal(err)
	}
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil && !errors.Is(err, syscall.ESRCH) {
		t.Error(err)
	}
}

func TestCheckChangesNothing(t *testing.T) {
	t.Parallel()
	b, h, f := ready(t)
	found, err := b.Check(t.Context(), h, plan.Order{})
	if err != nil || len(found) != 1 || found[0].State != plan.FindingSkip {
		t.Errorf("of a blank host: %+v, %v", found, err)
	}
	if _, err := os.Stat(h.Facts.Home); err == nil {
		t.Error("a check made a folder")
	}
	job := testJob(t, f, "install")
	r, err := b.Apply(t.Context(), h, job, nil)
	if err != nil {
		t.Fatal(err)
	}
	h.Facts.Installed = r.VersionID
	found, err = b.Check(t.Context(), h, plan.Order{Operator: "checks", Home: job.Order.Home})
	if err != nil || len(found) != 1 || found[0].Message != "3.12" {
		t.Errorf("findings are %+v, %v", found, err)
	}
}

func TestConnectionThatEndedIsMadeAgain(t *testing.T) {
	t.Parallel()
	b, h, f := ready(t)
	b.Close()
	if _, err := b.Apply(t.Context(), h, testJob(t, f, "install"), nil); err != nil {
		t.Error(err)
	}
	f.stop()
	b.Close()
	_, err := b.Apply(t.Context(), h, testJob(t, f, "install"), nil)
	if cluster.CodeOf(err) != cluster.CodeUnreachable {
		t.Errorf("error is %v", err)
	}
}
