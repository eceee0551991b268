package doctor_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/mlxctl/mlxctl/internal/bootstrap/plan"
	"github.com/mlxctl/mlxctl/internal/doctor"
)

func folder(t *testing.T, mode os.FileMode, files map[string]os.FileMode) string {
	t.Helper()
	dir := t.TempDir()
	for name, mode := range files {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte("x"), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(path, mode); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Chmod(dir, mode); err != nil {
		t.Fatal(err)
	}
	return dir
}

func TestFolder(t *testing.T) {
	t.Parallel()
	private := folder(t, 0o700, map[string]os.FileMode{"key": 0o600})
	has(t, doctor.Folder(private, true), plan.FindingOK, private)
	has(t, doctor.Folder(folder(t, 0o755, nil), false), plan.FindingOK, "")
	has(t, doctor.Folder(folder(t, 0o775, nil), false), plan.FindingFail, "is open to others")
	has(t, doctor.Folder(folder(t, 0o750, nil), true), plan.FindingFail, "is open to others")
	has(t, doctor.Folder(folder(t, 0o700, map[string]os.FileMode{"a": 0o600, "key": 0o640}), true), plan.FindingFail, "key is open to others")
	has(t, doctor.Folder(filepath.Join(private, "none"), true), plan.FindingSkip, "not there yet")
	has(t, doctor.Folder(filepath.Join(private, "key"), true), plan.FindingFail, "is not a folder")
}

func TestDisk(t *testing.T) {
	t.Parallel()
	got := doctor.Disk(filepath.Join(t.TempDir(), "not", "yet"))
	if len(got) != 1 || got[0].State == plan.FindingSkip {
		t.Errorf("got %+v", got)
	}
	const gib = 1 << 30
	has(t, []plan.Finding{doctor.Room("/", 20*gib)}, plan.FindingOK, "20 GiB free")
	has(t, []plan.Finding{doctor.Room("/", 20*gib-1)}, plan.FindingWarn, "20.0 GiB free")
	has(t, []plan.Finding{doctor.Room("/", 2*gib-1)}, plan.FindingFail, "2.0 GiB free")
	has(t, []plan.Finding{doctor.Room("/", 0)}, plan.FindingFail, "0.0 GiB free")
}

func TestClock(t *testing.T) {
	t.Parallel()
	asked := time.Date(2026, 11, 28, 12, 0, 0, 0, time.UTC)
	answered := asked.Add(2 * time.Second)
	for _, test := range []struct {
		there time.Time
		state plan.FindingKind
		part  string
	}{
		{asked, plan.FindingOK, ""},
		{asked.Add(time.Second), plan.FindingOK, "agrees, measured to within 2s"},
		{answered.Add(4 * time.Second), plan.FindingOK, "agrees, measured to within 4s"},
		{answered.Add(5 * time.Second), plan.FindingWarn, "5s ahead"},
		{asked.Add(-5 * time.Second), plan.FindingWarn, "5s behind"},
		{asked.Add(-5 * time.Minute), plan.FindingFail, "5m0s behind"},
		{answered.Add(48 * time.Hour), plan.FindingFail, "48h0m0s ahead"},
	} {
		has(t, []plan.Finding{doctor.Clock(test.there, asked, answered)}, test.state, test.part)
	}
}

// tools is a Tool that prints what the system's programs print; a command line that it does not know fails.
func tools(outputs map[string]string) doctor.Tool {
	return func(_ context.Context, name string, args ...string) (string, error) {
		out, ok := outputs[filepath.Base(name)+" "+strings.Join(args, " ")]
		if !ok {
			return "", errors.New("no such tool")
		}
		return out, nil
	}
}

func TestFirewall(t *testing.T) {
	t.Parallel()
	const exe = "/opt/my tools/mlxctl"
	on := "Firewall is enabled. (State = 1)"
	for name, test := range map[string]struct {
		state, all, app string
		want            plan.FindingKind
		part            string
	}{
		"off":       {state: "Firewall is disabled. (State = 0)", want: plan.FindingOK, part: "off"},
		"allowed":   {on, "Firewall has block all state set to disabled.", "Incoming connection to the application is permitted", plan.FindingOK, "let through"},
		"blocked":   {on, "Firewall has block all state set to disabled.", "Incoming connection to the application is blocked", plan.FindingFail, "blocks connections to mlxctl"},
		"unknown":   {on, "Firewall has block all state set to disabled.", "The application is not part of the firewall", plan.FindingWarn, "does not know mlxctl"},
		"block all": {on, "Firewall has block all state set to enabled.", "", plan.FindingFail, "blocks all"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			run := tools(map[string]string{
				"socketfilterfw --getglobalstate": test.state, "socketfilterfw --getblockall": test.all,
				"socketfilterfw --getappblocked " + exe: test.app,
			})
			got := doctor.Firewall(t.Context(), run, exe)
			has(t, got, test.want, test.part)
			if got[0].Fix != "" && strings.Contains(got[0].Fix, exe) && !strings.Contains(got[0].Fix, "'"+exe+"'") {
				t.Errorf("the path is not quoted: %s", got[0].Fix)
			}
		})
	}
	has(t, doctor.Firewall(t.Context(), tools(nil), exe), plan.FindingSkip, "cannot ask")
}
