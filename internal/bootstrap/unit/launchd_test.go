package unit

import (
	"encoding/xml"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/mlxctl/mlxctl/internal/bootstrap/plan"
	"github.com/mlxctl/mlxctl/internal/cluster"
)

// parsePlist reads a property list into Go's own values.
func parsePlist(t *testing.T, data []byte) map[string]any {
	t.Helper()
	d := xml.NewDecoder(strings.NewReader(string(data)))
	for {
		token, err := d.Token()
		if err != nil {
			t.Fatalf("plist: %v\n%s", err, data)
		}
		if start, ok := token.(xml.StartElement); ok && start.Name.Local == "dict" {
			v, err := plistValue(d, start)
			if err != nil {
				t.Fatalf("plist: %v\n%s", err, data)
			}
			return v.(map[string]any)
		}
	}
}

func plistValue(d *xml.Decoder, start xml.StartElement) (any, error) {
	var text string
	var list []any
	for {
		token, err := d.Token()
		if err != nil {
			return nil, err
		}
		switch token := token.(type) {
		case xml.CharData:
			text += string(token)
		case xml.StartElement:
			v, err := plistValue(d, token)
			if err != nil {
				return nil, err
			}
			list = append(list, v)
		case xml.EndElement:
			return plistOf(start.Name.Local, text, list)
		}
	}
}

func plistOf(kind, text string, list []any) (any, error) {
	switch kind {
	case "key", "string", "integer":
		return text, nil
	case "true":
		return true, nil
	case "array":
		return list, nil
	case "dict":
		out := map[string]any{}
		if len(list)%2 != 0 {
			return nil, errors.New("a key without a value")
		}
		for i := 0; i < len(list); i += 2 {
			out[list[i].(string)] = list[i+1]
		}
		return out, nil
	}
	return nil, fmt.Errorf("element %s", kind)
}

func TestPlist(t *testing.T) {
	t.Parallel()
	s := Spec{Home: "/Users/o'neil & <sons>/.mlxctl", User: "o'neil & <sons>", UID: 501, UserHome: "/Users/o'neil & <sons>"}.OnMacOS("/Library/LaunchDaemons")
	for _, kind := range []plan.UnitKind{plan.UnitLaunchDaemon, plan.UnitLaunchAgent} {
		d, err := Open(kind, s)
		if err != nil {
			t.Fatal(err)
		}
		text, err := d.Text()
		if err != nil {
			t.Fatal(err)
		}
		log := filepath.Join(s.Home, "log", "agent.log")
		want := map[string]any{
			"Label":            "ai.mlxctl.agent",
			"ProgramArguments": []any{filepath.Join(s.Home, "current", "mlxctl"), "agent"},
			"EnvironmentVariables": map[string]any{
				"HOME": s.UserHome, "PATH": "/opt/homebrew/bin:/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin",
				"MLXCTL_HOME": s.Home, "MLXCTL_CACHE": filepath.Join(s.Home, "cache"),
			},
			"RunAtLoad": true, "KeepAlive": true, "ThrottleInterval": "5", "ProcessType": "Interactive", "ExitTimeOut": "60",
			"SoftResourceLimits": map[string]any{"NumberOfFiles": "65536"},
			"StandardOutPath":    log, "StandardErrorPath": log,
		}
		if kind == plan.UnitLaunchDaemon {
			want["UserName"] = s.User
		} else {
			want["LimitLoadToSessionType"] = []any{"Aqua", "Background"}
		}
		if got := parsePlist(t, text); !reflect.DeepEqual(got, want) {
			t.Errorf("%s:\ngot  %v\nwant %v", kind, got, want)
		}
	}
}

func TestSystemdUnit(t *testing.T) {
	t.Parallel()
	s := Spec{Home: `/home/a "b" 100%/.mlxctl`, User: "ann", UID: 1000, UserHome: `/home/a "b" 100%`}.AsUser()
	d, err := Open(plan.UnitSystemd, s)
	if err != nil {
		t.Fatal(err)
	}
	text, err := d.Text()
	if err != nil {
		t.Fatal(err)
	}
	for _, line := range []string{
		`Environment="MLXCTL_HOME=/home/a \"b\" 100%%/.mlxctl"`, `ExecStart="/home/a \"b\" 100%%/.mlxctl/current/mlxctl" agent`,
		"Restart=always", "LimitNOFILE=65536", `StandardError=append:/home/a "b" 100%%/.mlxctl/log/agent.log`, "WantedBy=default.target",
	} {
		if !slices.Contains(strings.Split(string(text), "\n"), line) {
			t.Errorf("no line %s in\n%s", line, text)
		}
	}
}

func TestUnfit(t *testing.T) {
	t.Parallel()
	for _, s := range []Spec{
		{Home: "/a\nb"}, {Home: "relative"}, {}, {Home: "/a", User: "x\x00", UserHome: "/x"}, {Home: "/a", User: "x", UserHome: "x"},
	} {
		if _, err := Open(plan.UnitKeeper, s); cluster.CodeOf(err) != cluster.CodeInvalid {
			t.Errorf("%+v: %v", s, err)
		}
	}
	if _, err := Open("cron", Spec{Home: "/a"}); cluster.CodeOf(err) != cluster.CodeInvalid {
		t.Errorf("cron: %v", err)
	}
}

// fakes puts programs of that name before the system's. Each notes how it was called in the file that is returned.
func fakes(t *testing.T, scripts map[string]string) (calls func() []string) {
	t.Helper()
	dir := t.TempDir()
	log := filepath.Join(dir, "calls")
	for name, script := range scripts {
		text := fmt.Sprintf("#!/bin/sh\nS=%s\necho \"%s $*\" >>%s\n%s\n", quote(dir), name, quote(log), script)
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
	return func() []string {
		data, err := os.ReadFile(log)
		if err != nil && !os.IsNotExist(err) {
			t.Fatal(err)
		}
		_ = os.Remove(log)
		return strings.Split(strings.TrimSpace(string(data)), "\n")
	}
}

// launchctl is a launchd with one service, which takes three looks to end and refuses the first bootstrap after it.
const launchctl = `
case $1 in
print)
  if test -f "$S/ending"; then
    n=$(cat "$S/ending"); n=$((n - 1))
    if test $n -le 0; then rm -f "$S/ending" "$S/loaded"; else echo $n >"$S/ending"; fi
  fi
  test -f "$S/loaded" && test "$(cat "$S/loaded")" = "${2%/*}" || { echo "Could not find service" >&2; exit 113; }
  if test -f "$S/dead"; then printf 'x = {\n\tstate = spawn scheduled\n\truns = 3\n\tlast exit code = 1\n}\n'; exit; fi
  printf 'x = {\n\tstate = running\n\truns = 3\n\tpid = 4711\n}\n' ;;
bootstrap)
  case $2 in gui/*) echo "Bootstrap failed: 125: Domain does not support specified action" >&2; exit 125 ;; esac
  test -f "$S/late" && { rm "$S/late"; echo "Bootstrap failed: 37" >&2; exit 37; }
  test -f "$S/loaded" && { echo "Bootstrap failed: 5: Input/output error" >&2; exit 5; }
  test -f "$S/bad" && { echo "Bootstrap failed: 5: Input/output error" >&2; exit 5; }
  echo "$2" >"$S/loaded" ;;
bootout) echo 3 >"$S/ending"; touch "$S/late"; exit 36 ;;
enable) rm -f "$S/disabled" ;;
disable) printf '\t"%s" => disabled\n' "${2##*/}" >"$S/disabled" ;;
print-disabled) cat "$S/disabled" ;;
kickstart) test -f "$S/loaded" || exit 113 ;;
*) exit 64 ;;
esac`

// sudo takes one password, from standard input and nowhere else, and makes no file root's.
const sudo = `
while :; do case $1 in
-n) test -f "$S/free" || { echo "sudo: a password is required" >&2; exit 1; }; shift ;;
-S) IFS= read -r p; test "$p" = "s3 cr'et" || { echo "sudo: 1 incorrect password attempt" >&2; exit 1; }; shift ;;
-p) shift 2 ;;
-v) exit 0 ;;
--) shift; break ;;
esac; done
exec "$@"`

// without leaves out what only looks.
func without(calls []string, what ...string) []string {
	return slices.DeleteFunc(calls, func(c string) bool {
		return slices.ContainsFunc(what, func(w string) bool { return strings.HasPrefix(c, w) })
	})
}

func TestLaunchDaemon(t *testing.T) {
	calls := fakes(t, map[string]string{"launchctl": launchctl, "sudo": sudo, "chown": ""})
	dir := t.TempDir()
	home, _ := scripted(t, t.TempDir())
	s := Spec{Home: home, User: "ann", UID: 501, UserHome: filepath.Dir(home), Password: "s3 cr'et"}.OnMacOS(dir)
	ctx := t.Context()
	d, err := Choose(ctx, "", s)
	if err != nil || d.Kind() != plan.UnitLaunchDaemon {
		t.Fatalf("chose %v, %v", d, err)
	}
	text, err := d.Text()
	if err != nil {
		t.Fatal(err)
	}
	if err := d.Install(ctx, text); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, s.label()+".plist")
	if got, err := os.ReadFile(path); err != nil || string(got) != string(text) {
		t.Errorf("installed %q, %v", got, err)
	}
	if left, _ := filepath.Glob(filepath.Join(home, "run", "*")); len(left) > 0 {
		t.Errorf("left: %v", left)
	}
	as := "sudo -S -p  -- "
	got := slices.DeleteFunc(calls(), func(c string) bool { return !strings.HasPrefix(c, "sudo ") && !strings.HasPrefix(c, "chown ") })
	if want := []string{"sudo -S -p  -v", as + "true", as + "sh -c set -e", "chown root:wheel " + path + ".new"}; !slices.Equal(got, want) {
		t.Errorf("install:\ngot  %q\nwant %q", got, want)
	}
	service := "system/" + s.label()
	begin := []string{as + "launchctl enable " + service, as + "launchctl bootstrap system " + path, as + "launchctl kickstart " + service}
	if err := d.Start(ctx); err != nil {
		t.Fatal(err)
	}
	if got := without(calls(), "launchctl"); !slices.Equal(got, begin) {
		t.Errorf("start:\ngot  %q\nwant %q", got, begin)
	}
	if got, err := d.Status(ctx); err != nil || got != (Status{Loaded: true, Wanted: true, Running: true, PID: 4711, Ended: 2}) {
		t.Errorf("status %+v, %v", got, err)
	}
	dead := filepath.Join(strings.Split(os.Getenv("PATH"), ":")[0], "dead")
	if err := os.WriteFile(dead, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if got, err := d.Status(ctx); err != nil || got != (Status{Loaded: true, Wanted: true, Ended: 3}) {
		t.Errorf("dead: status %+v, %v", got, err)
	}
	if err := os.Remove(dead); err != nil {
		t.Fatal(err)
	}
	if err := d.Start(ctx); err != nil { // again: it has to end first, and launchd still is not done then
		t.Fatal(err)
	}
	want := slices.Insert(slices.Clone(begin), 2, begin[1])
	want = append([]string{as + "launchctl bootout " + service}, want...)
	if got := without(calls(), "launchctl"); !slices.Equal(got, want) {
		t.Errorf("start again:\ngot  %q\nwant %q", got, want)
	}
	for range 2 {
		if err := d.Remove(ctx); err != nil {
			t.Fatal(err)
		}
	}
	want = []string{as + "launchctl bootout " + service, as + "rm -f " + path}
	if got := without(calls(), "launchctl"); !slices.Equal(got, want) {
		t.Errorf("remove:\ngot  %q\nwant %q", got, want)
	}
}

func TestLaunchDaemonThatIsNotTaken(t *testing.T) {
	fakes(t, map[string]string{"launchctl": strings.ReplaceAll(launchctl, `test -f "$S/bad"`, "true"), "sudo": sudo})
	home, _ := scripted(t, t.TempDir())
	s := Spec{Home: home, User: "ann", UID: 501, UserHome: filepath.Dir(home), Password: "s3 cr'et"}.OnMacOS(t.TempDir())
	d, err := Open(plan.UnitLaunchDaemon, s)
	if err != nil {
		t.Fatal(err)
	}
	err = d.Start(t.Context())
	if e := cluster.AsError(err); e == nil || !strings.Contains(e.Hint, "plutil -lint") || !strings.Contains(e.Message, "Input/output error") {
		t.Errorf("got %v", err)
	}
}

// Without sudo it is an agent, in the first domain that there is.
func TestLaunchAgent(t *testing.T) {
	calls := fakes(t, map[string]string{"launchctl": launchctl, "sudo": sudo})
	home, _ := scripted(t, t.TempDir())
	user := t.TempDir()
	for _, password := range []string{"", "wrong"} {
		s := Spec{Home: home, User: "ann", UID: 501, UserHome: user, Password: password}.OnMacOS(t.TempDir())
		d, err := Choose(t.Context(), "", s)
		if err != nil || d.Kind() != plan.UnitLaunchAgent {
			t.Fatalf("chose %v, %v", d, err)
		}
		text, err := d.Text()
		if err == nil {
			err = d.Install(t.Context(), text)
		}
		if err == nil {
			err = d.Start(t.Context())
		}
		if err != nil {
			t.Fatal(err)
		}
		path := filepath.Join(user, "Library", "LaunchAgents", s.label()+".plist")
		if got, err := os.ReadFile(path); err != nil || string(got) != string(text) {
			t.Errorf("installed %q, %v", got, err)
		}
		gui, background := "gui/501/"+s.label(), "user/501/"+s.label()
		want := []string{
			"launchctl enable " + gui, "launchctl bootstrap gui/501 " + path, "launchctl enable " + background,
			"launchctl bootstrap user/501 " + path, "launchctl kickstart " + background,
		}
		if got := without(calls(), "launchctl print", "sudo"); !slices.Equal(got, want) {
			t.Errorf("got  %q\nwant %q", got, want)
		}
		if err := d.Stop(t.Context()); err != nil {
			t.Fatal(err)
		}
		want = []string{"launchctl disable " + background, "launchctl bootout " + background}
		if got := without(calls(), "launchctl print", "sudo"); !slices.Equal(got, want) {
			t.Errorf("stop: got  %q\nwant %q", got, want)
		}
		if s, err := d.Status(t.Context()); err != nil || s != (Status{}) {
			t.Errorf("stopped: %+v, %v", s, err)
		}
		fake, _, _ := strings.Cut(os.Getenv("PATH"), ":")
		if _, err := os.Stat(filepath.Join(fake, "disabled")); err != nil {
			t.Errorf("stopped, it is not disabled: %v", err)
		}
		if err := d.Remove(t.Context()); err != nil {
			t.Fatal(err)
		}
		if _, err := os.Stat(filepath.Join(fake, "disabled")); err == nil {
			t.Error("launchd goes on to call it disabled")
		}
		calls()
		if err := os.Remove(filepath.Join(fake, "late")); err != nil {
			t.Fatal(err)
		}
	}
}
