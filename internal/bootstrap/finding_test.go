package bootstrap_test

import (
	"strings"
	"testing"
	"time"

	"github.com/mlxctl/mlxctl/internal/bootstrap"
	"github.com/mlxctl/mlxctl/internal/bootstrap/plan"
)

// mac is a Mac on which nothing is wrong.
func mac() bootstrap.Facts {
	return bootstrap.Facts{
		OS: "darwin", Arch: "arm64", OSVersion: "15.2", User: "fred", UserHome: "/Users/fred", Sudo: bootstrap.SudoPasswordless, DiskFree: 100e9,
	}
}

func TestFindings(t *testing.T) {
	t.Parallel()
	b := newNear(t).open(t)
	for name, c := range map[string]struct {
		change func(*bootstrap.Facts)
		check  string
		state  plan.FindingKind
		says   string
	}{
		"nothing": {func(*bootstrap.Facts) {}, "", "", ""},
		"linux": {func(f *bootstrap.Facts) {
			f.OS, f.Arch, f.OSVersion, f.Sudo, f.HasServices = "linux", "amd64", "Debian", "none", true
		}, "", "", ""},
		"linux, keeper": {func(f *bootstrap.Facts) { f.OS, f.Arch, f.OSVersion, f.Sudo = "linux", "amd64", "Debian", "password" }, bootstrap.CheckSudo, plan.FindingWarn, "ends when that machine does"},
		"served in reverse": {func(f *bootstrap.Facts) {
			f.Installed, f.Link = "1-a", &plan.Link{State: plan.LinkConnected, Reverse: true}
		}, bootstrap.CheckLink, plan.FindingWarn, "controller dials it"},
		"was in reverse": {func(f *bootstrap.Facts) { f.Link = &plan.Link{State: plan.LinkDenied} }, "", "", ""},
		"oldest macOS":   {func(f *bootstrap.Facts) { f.OSVersion = "14" }, "", "", ""},
		"old macOS":      {func(f *bootstrap.Facts) { f.OSVersion = "13.6.1" }, bootstrap.CheckPlatform, plan.FindingFail, "13.6.1"},
		"intel":          {func(f *bootstrap.Facts) { f.Arch = "amd64" }, bootstrap.CheckPlatform, plan.FindingFail, "Intel"},
		"other system":   {func(f *bootstrap.Facts) { f.OS = "freebsd" }, bootstrap.CheckPlatform, plan.FindingFail, "freebsd"},
		"no home":        {func(f *bootstrap.Facts) { f.UserHome = "" }, bootstrap.CheckPlatform, plan.FindingFail, "home"},
		"full disk":      {func(f *bootstrap.Facts) { f.DiskFree, f.DiskMount = 12e6, "/Volumes/x" }, bootstrap.CheckDisk, plan.FindingFail, "12 MB free on /Volumes/x"},
		"clock ahead":    {func(f *bootstrap.Facts) { f.Skew = 32 * time.Second }, bootstrap.CheckClock, plan.FindingWarn, "32s ahead"},
		"clock behind":   {func(f *bootstrap.Facts) { f.Skew = -25 * time.Hour }, bootstrap.CheckClock, plan.FindingFail, "25h0m0s behind"},
		"clock unsure":   {func(f *bootstrap.Facts) { f.Skew, f.SkewError = 32*time.Second, 3*time.Second }, "", "", ""},
		"sudo password":  {func(f *bootstrap.Facts) { f.Sudo = bootstrap.SudoPassword }, bootstrap.CheckSudo, plan.FindingWarn, "controller dials"},
		"no sudo":        {func(f *bootstrap.Facts) { f.Sudo = bootstrap.SudoNone }, bootstrap.CheckSudo, plan.FindingWarn, "fred"},
	} {
		h := &bootstrap.Host{Target: bootstrap.Target{Host: "attic"}, Facts: mac()}
		c.change(&h.Facts)
		b.Judge(h)
		if c.check == "" {
			if len(h.Findings) > 0 {
				t.Errorf("%s: %+v, want nothing", name, h.Findings)
			}
			continue
		}
		if len(h.Findings) != 1 || h.Findings[0].Check != c.check || h.Findings[0].State != c.state || h.Findings[0].Fix == "" {
			t.Errorf("%s: %+v, want %s of %s with a mend", name, h.Findings, c.state, c.check)
			continue
		}
		has(t, h.Findings[0].Message, c.says, "attic")
	}
}

func TestFactsAreUntrusted(t *testing.T) {
	t.Parallel()
	f := bootstrap.ParseFactLines([]byte("motd\n@mlx os \x1b[31mDarwin\x1b[0m\n@mlx os Linux\n@mlx home relative\n@mlx uid -7\n@mlx sudo always\n" +
		"@mlx installed ../../../etc\n@mlx link {\"state\":\"connected\",\"error\":\"\\u001b]0;x\\u0007bad\"}\n@mlx hardware a b\n@mlx python 3.12; rm\n" +
		"@mlx memory 99999999999999999999\n@mlx chip " + strings.Repeat("x", 6000) + "\n@mlx model " + strings.Repeat("y", 1000) + "\n@mlx unit cron\n"))
	if f.OS != "darwin" || f.UserHome != "" || f.Home != "" || f.UID != 0 || f.Sudo != bootstrap.SudoNone || f.Hardware != "" || f.Python != "" {
		t.Errorf("facts are %+v", f)
	}
	if f.Memory != 0 || f.Chip != "" || len(f.Model) != 128 || f.Unit != "" || f.Link.Error != "bad" || f.Installed != "etc" {
		t.Errorf("facts are %+v, link %+v", f, f.Link)
	}
}
