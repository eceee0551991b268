package cmd

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

// What a command may end with, its help names.
func TestHelpNamesTheCodeThatACommandEndsWith(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		line string
		code int
	}{
		{"token list", exitUnreachable},
		{"token create", exitUnreachable},
		{"token rm x", exitUnreachable},
		{"keys rotate api", exitUnreachable},
		{"keys rotate signing", exitUnreachable},
		{"keys rotate nodes", exitUnreachable},
		{"nodes rm x", exitUnreachable},
		{"upgrade x", exitUnreachable},
		{"ps", exitUnreachable},
		{"drain x", exitUnreachable},
		{"undrain x", exitUnreachable},
		{"load x", exitUnreachable},
		{"unload x", exitUnreachable},
		{"run x y", exitUnreachable},
		{"env", exitUnreachable},
		{"top --once", exitUnreachable},
		{"context use nope", exitNoSuch},
		{"context rm nope", exitNoSuch},
		{"context ls --context nope", exitNoSuch},
		{"context show --context nope", exitNoSuch},
		{"config view --context nope", exitNoSuch},
		{"config get http_addr --context nope", exitNoSuch},
		{"token list --context nope", exitNoSuch},
		{"token create --context nope", exitNoSuch},
		{"token rm x --context nope", exitNoSuch},
		{"keys rotate api --context nope", exitNoSuch},
		{"keys rotate signing --context nope", exitNoSuch},
		{"keys rotate nodes --context nope", exitNoSuch},
		{"up --context nope", exitNoSuch},
		{"up --local --context nope", exitNoSuch},
		{"down --context nope", exitNoSuch},
		{"nodes --context nope", exitNoSuch},
		{"nodes add x --context nope", exitNoSuch},
		{"nodes rm x --context nope", exitNoSuch},
		{"upgrade x --context nope", exitNoSuch},
		{"models --context nope", exitNoSuch},
		{"doctor --context nope", exitNoSuch},
		{"logs x --context nope", exitNoSuch},
	} {
		args := strings.Fields(c.line)
		r := invocation{}.run(t, args...)
		if r.code != c.code {
			t.Errorf("%s: %+v, want exit %d", c.line, r, c.code)
		}
		help := invocation{}.run(t, append(args, "--help")...)
		_, status, _ := strings.Cut(help.out, "EXIT STATUS\n")
		if !strings.Contains(status, "  "+strconv.Itoa(c.code)+" ") {
			t.Errorf("%s: help names no %d:\n%s", c.line, c.code, status)
		}
	}
}

func TestHelpOfACommandThatIsNotThere(t *testing.T) {
	t.Parallel()
	for line, hint := range map[string]string{
		"context set --help":     "",
		"nope --help":            "",
		"nodes ad x --help":      "add",
		"keys rotate apu -h":     "mlxctl keys rotate api",
		"list":                   "mlxctl models",
		"pin tiny":               "mlxctl load --pin",
		"token lost":             "mlxctl token list",
		"--context x node --hel": "",
	} {
		r := invocation{}.run(t, strings.Fields(line)...)
		if r.code != exitUsage || r.out != "" || !strings.Contains(r.err, hint) {
			t.Errorf("%s: %+v", line, r)
		}
	}
	for _, line := range []string{"context --help", "--help", "nodes --help", "run tiny --help", "--context x nodes --help", "context", "keys rotate"} {
		if r := (invocation{}).run(t, strings.Fields(line)...); r.code != 0 || !strings.Contains(r.out, "USAGE") {
			t.Errorf("%s: %+v", line, r)
		}
	}
	if r := (invocation{}).run(t, "agent", "--help"); r.code != 0 || strings.Contains(r.out, "lifeline") {
		t.Errorf("help shows what is the keeper's: %+v", r)
	}
}

// Commands that only look, or that need a cluster where there is none, make no folder.
func TestReadingMakesNoFolders(t *testing.T) {
	t.Parallel()
	for _, line := range []string{
		"nodes rm x --yes", "upgrade --all --yes", "up --local --dry-run", "up --dry-run --no-discover", "ps", "nodes", "token list", "config view", "env", "context ls", "down", "logs",
	} {
		home := filepath.Join(t.TempDir(), "home")
		invocation{env: map[string]string{"MLXCTL_HOME": home}}.run(t, strings.Fields(line)...)
		if _, err := os.Stat(home); err == nil {
			left, _ := os.ReadDir(home)
			t.Errorf("%s made the home, with %v", line, left)
		}
	}
}

func TestErrorsBlameWhatIsWrong(t *testing.T) {
	t.Parallel()
	r := invocation{env: map[string]string{"MLXCTL_COLOR": "blue"}}.run(t, "ps")
	if r.code != exitUsage || !strings.Contains(r.err, "MLXCTL_COLOR must be") {
		t.Errorf("a colour of the environment: %+v", r)
	}
	r = invocation{}.run(t, "run", "tiny", "-f", "/no/such/file")
	if r.code != exitUsage || !strings.Contains(r.err, "/no/such/file") || strings.Contains(r.err, "hint:") {
		t.Errorf("a file that is not there: %+v", r)
	}
	r = invocation{}.run(t, "context", "add", "team", "--http-url", "http://10.0.0.5:8640")
	if r.code != exitUsage || !strings.Contains(r.err, "hint: give --nats-url") {
		t.Errorf("a gateway alone: %+v", r)
	}
}
