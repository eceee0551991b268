package config

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/mlxctl/mlxctl/internal/cluster"
)

func environ(pairs ...string) Environ {
	m := map[string]string{}
	for i := 0; i < len(pairs); i += 2 {
		m[pairs[i]] = pairs[i+1]
	}
	return func(name string) (string, bool) {
		v, ok := m[name]
		return v, ok
	}
}

// Every key, at every level that it can come from: each level wins over the ones below it.
func TestPrecedence(t *testing.T) {
	t.Parallel()
	samples := map[Kind][4]string{
		Text:     {"from-file", "from-context", "from-env", "from-flag"},
		Duration: {"1s", "2s", "3s", "4s"},
		Address:  {"127.0.0.1:1", "127.0.0.1:2", "127.0.0.1:3", "127.0.0.1:4"},
		URL:      {"tls://file:1", "tls://context:1", "tls://env:1", "tls://flag:1"},
		Size:     {"1GiB", "2GiB", "3GiB", "4GiB"},
		Count:    {"1", "2", "3", "4"},
		Strings:  {"/file", "/context", "/env", "/flag"},
		Percent:  {"10", "20", "30", "40"},
		File:     {"/from/file", "/from/context", "/from/env", "/from/flag"},
		Hosts:    {"file", "context", "anna@env:22", "flag"},
	}
	for _, k := range Keys() {
		if k.Name == "context" {
			continue // TestContextChosen
		}
		values, ok := samples[k.Kind]
		if k.Kind == Choice {
			for i := range values {
				values[i], ok = k.Choices[i%len(k.Choices)], true
			}
		}
		if len(k.Schemes) > 0 {
			for i := range values {
				values[i] = k.Schemes[0] + strings.TrimPrefix(values[i], "tls")
			}
		}
		if !ok {
			t.Fatalf("no samples for the kind of %s", k.Name)
		}
		for level := range 5 {
			if level == 2 && !k.InContext {
				continue
			}
			dirs := Dirs{Home: "/h", File: filepath.Join(t.TempDir(), "config.yaml")}
			var lines []string
			var env []string
			flags := map[string]string{}
			want, origin := k.Default, "default"
			if level >= 1 {
				lines = append(lines, fileLines(k, values[0])...)
				want, origin = values[0], "file"
			}
			if level >= 2 && k.InContext {
				lines = append(lines, "context: far", "contexts:", "  - name: far", "    "+k.Name+": "+values[1])
				want, origin = values[1], "context"
			}
			if level >= 3 {
				env = append(env, k.Env(), values[2])
				want, origin = values[2], "env"
			}
			if level >= 4 {
				flags[k.Name] = values[3]
				want, origin = values[3], "flag"
			}
			write(t, dirs.File, strings.Join(lines, "\n"))
			c, err := Load(Options{Dirs: dirs, Env: environ(env...), Flags: flags})
			if err != nil {
				t.Fatalf("%s at level %s: %v", k.Name, origin, err)
			}
			got, _ := c.Value(k.Name)
			var wantValue any = want
			if k.Kind == Strings || k.Kind == Hosts {
				wantValue = filepath.SplitList(want)
			}
			if k.Kind == Hosts && want != "" {
				wantValue = []string{want}
			}
			if diff := cmp.Diff(wantValue, got.Value, cmp.Transformer("nil", func(s []string) string { return strings.Join(s, ":") })); diff != "" {
				t.Errorf("%s at level %s: %s", k.Name, origin, diff)
			}
			if got.Origin.Level != origin {
				t.Errorf("%s: origin %q, want %q", k.Name, got.Origin.Level, origin)
			}
		}
	}
}

func fileLines(k Key, value string) []string {
	if k.Kind == Strings || k.Kind == Hosts {
		value = "[" + value + "]"
	}
	parent, name, nested := strings.Cut(k.Name, ".")
	if !nested {
		return []string{k.Name + ": " + value}
	}
	return []string{parent + ":", "  " + name + ": " + value}
}

func TestContextChosen(t *testing.T) {
	t.Parallel()
	dirs := Dirs{Home: "/h", File: filepath.Join(t.TempDir(), "config.yaml")}
	const contexts = "contexts:\n  - name: a\n    nats_url: tls://a:1\n  - {name: b, nats_url: 'tls://b:1'}\n"
	for _, c := range []struct {
		name, file   string
		env          []string
		flags        map[string]string
		context, url string
	}{
		{name: "default", context: "local"},
		{name: "file", file: "context: a\n", context: "a", url: "tls://a:1"},
		{name: "env", file: "context: a\n", env: []string{"MLXCTL_CONTEXT", "b"}, context: "b", url: "tls://b:1"},
		{name: "flag", file: "context: a\n", env: []string{"MLXCTL_CONTEXT", "b"}, flags: map[string]string{"context": "local"}, context: "local"},
	} {
		write(t, dirs.File, c.file+contexts)
		got, err := Load(Options{Dirs: dirs, Env: environ(c.env...), Flags: c.flags})
		if err != nil {
			t.Fatalf("%s: %v", c.name, err)
		}
		if got.Context != c.context || got.Current().Name != c.context || got.NATSURL != c.url {
			t.Errorf("%s: context %q (%q), url %q", c.name, got.Context, got.Current().Name, got.NATSURL)
		}
	}
	_, err := Load(Options{Dirs: dirs, Env: environ("MLXCTL_CONTEXT", "loca"), Flags: nil})
	var missing *NoContextError
	if !errors.As(err, &missing) || cluster.AsError(err).Hint != "did you mean \"local\"? `mlxctl context ls` lists them" {
		t.Errorf("unknown context: %v, hint %q", err, cluster.AsError(err).Hint)
	}
}

func TestTyped(t *testing.T) {
	t.Parallel()
	dirs := Dirs{Home: "/h", File: filepath.Join(t.TempDir(), "config.yaml")}
	write(t, dirs.File, "models:\n  options:\n  - {name: tiny, kv_bits: 8, pinned: true, idle_ttl: 0s, memory: 2GiB, stored_bits: 0}\n"+
		"  - name: org/m\n    adapter: /a\n    draft: tiny\n    prefix_share: 20\n  memory: 1.5GiB\n  max_rows: 4\n  idle_ttl: 90s\n  hub_dirs: [/a, /b]\ndeadlines: {gap: 3s}\n")
	c, err := Load(Options{Dirs: dirs, Env: environ()})
	if err != nil {
		t.Fatal(err)
	}
	never, none := time.Duration(0), 0
	want := Models{
		MemoryBytes: 3 << 29, MaxRows: 4, IdleTTL: 90e9, HubDirs: []string{"/a", "/b"},
		StepTime: 200e6, SessionTTL: 300e9, Speculate: "auto", Wired: "weights",
		Options: []ModelOptions{
			{Name: "tiny", KVBits: 8, Pinned: true, IdleTTL: &never, MemoryBytes: 2 << 30, StoredBits: &none},
			{Name: "org/m", Adapter: "/a", Draft: "tiny", PrefixShare: 20},
		},
	}
	if diff := cmp.Diff(want, c.Models); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff(Deadlines{Queue: 600e9, Accept: 2e9, FirstToken: 600e9, Gap: 3e9, Token: 120e9, Total: 3600e9}, c.Deadlines); diff != "" {
		t.Error(diff)
	}
}

func TestBadFile(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ name, file, want, hint string }{
		{"unknown", "http_adr: 127.0.0.1:1", `:1: unknown key "http_adr"`, `did you mean "http_addr"?`},
		{"unknown nested", "deadlines:\n  gapp: 1s", `:2: unknown key "deadlines.gapp"`, `did you mean "deadlines.gap"?`},
		{"unknown in a context", "contexts:\n  - name: a\n    url: x", `:3: unknown key "contexts[0].url"`, ""},
		{"not YAML", "a: [", `:`, ""},
		{"a list", "- a", `:1: the file must hold keys and values`, ""},
		{"twice", "timeout: 1s\ntimeout: 2s", `:2: key "timeout" is there twice`, ""},
		{"duration", "timeout: soon", `:1: timeout must be a duration such as 90s or 10m, not "soon"`, ""},
		{"address", "http_addr: localhost", `:1: http_addr must be an address such as 127.0.0.1:8640, not "localhost"`, ""},
		{"port", "http_addr: localhost:99999", `:1: http_addr must have a port from 0 to 65535, not "localhost:99999"`, ""},
		{"size", "models: {memory: lots}", `:1: models.memory must be a size such as 24GiB, not "lots"`, ""},
		{"choice", "color: red", `:1: color must be auto, always or never, not "red"`, ""},
		{"mapping for a value", "timeout: {a: b}", `:1: timeout must be a single value`, ""},
		{"value for a mapping", "deadlines: 3", `:1: deadlines must hold keys and values`, ""},
		{"contexts as a map", "contexts: {a: {}}", `:1: contexts must be a list of entries with a name each`, ""},
		{"nameless", "contexts: [{home: /a}]", `:1: contexts[0] must have a name of its own, not ""`, ""},
		{"options as a map", "models:\n  options: {tiny: {}}", `:2: models.options must be a list of entries with a name each`, ""},
		{"unknown option", "models:\n  options:\n  - name: a\n    adapt: /x", `:4: unknown key "models.options[0].adapt"`, `did you mean "models.options[0].adapter"?`},
		{"adapter that is nowhere", "models: {options: [{name: a, adapter: x}]}", `:1: models.options[0].adapter must be an absolute path, not "x"`, ""},
		{"odd bits", "models: {options: [{name: a, kv_bits: 5}]}", `:1: models.options[0].kv_bits must be 0, 4 or 8, not "5"`, ""},
		{"two of a model", "models: {options: [{name: a}, {name: a}]}", `:1: models.options[1] must have a name of its own, not "a"`, ""},
		{"percent", "models: {prefix_share: 91}", `:1: models.prefix_share must be a whole number from 0 to 90, not "91"`, ""},
		{"same name", "contexts:\n- name: a\n- name: a", `:3: contexts[1] must have a name of its own, not "a"`, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			dirs := Dirs{Home: "/h", File: filepath.Join(t.TempDir(), "config.yaml")}
			write(t, dirs.File, c.file)
			_, err := Load(Options{Dirs: dirs, Env: environ()})
			e := cluster.AsError(err)
			if e == nil || e.Code != cluster.CodeInvalid || !strings.HasPrefix(e.Message, dirs.File+":") ||
				!strings.Contains(e.Message, c.want) || strings.Contains(e.Message, "\n") {
				t.Fatalf("got %v", err)
			}
			if c.hint != "" && e.Hint != c.hint {
				t.Errorf("hint %q", e.Hint)
			}
		})
	}
	for _, c := range []struct {
		env   []string
		flags map[string]string
		want  string
	}{
		{[]string{"MLXCTL_TIMEOUT", "x"}, nil, `MLXCTL_TIMEOUT must be a duration such as 90s or 10m, not "x"`},
		{nil, map[string]string{"http_addr": "x"}, `--http-addr must be an address such as 127.0.0.1:8640, not "x"`},
	} {
		_, err := Load(Options{Dirs: Dirs{File: "/nowhere/config.yaml"}, Env: environ(c.env...), Flags: c.flags})
		if err == nil || err.Error() != c.want {
			t.Errorf("got %v, want %s", err, c.want)
		}
	}
}

func TestFoldersOfOptions(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	for path, want := range map[string]string{
		dir:                           "",
		filepath.Join(dir, "nowhere"): "models.options: adapter of model m: there is no folder " + filepath.Join(dir, "nowhere"),
	} {
		err := Models{Options: []ModelOptions{{Name: "m", Adapter: path, Draft: "org/name"}}}.CheckFolders()
		if want == "" && err == nil {
			continue
		}
		if e := cluster.AsError(err); e == nil || e.Code != cluster.CodeInvalid || e.Message != want {
			t.Errorf("%s: %v", path, err)
		}
	}
}

func TestSetKeepsComments(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "sub", "config.yaml")
	write(t, path, "# mine\ntimeout: 5s # short\n\n# below\ndeadlines:\n  gap: 1s # tight\n")
	for _, kv := range [][2]string{{"timeout", "7s"}, {"deadlines.gap", "2s"}, {"deadlines.total", "5m"}, {"models.max_rows", "3"}, {"name", "on"}} {
		if err := Set(path, kv[0], kv[1]); err != nil {
			t.Fatal(err)
		}
	}
	got, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	want := "# mine\ntimeout: 7s # short\n# below\ndeadlines:\n  gap: 2s # tight\n  total: 5m\nmodels:\n  max_rows: 3\nname: on\n"
	if diff := cmp.Diff(strings.ReplaceAll(want, "\n\n", "\n"), strings.ReplaceAll(string(got), "\n\n", "\n")); diff != "" {
		t.Error(diff)
	}
	c, err := Load(Options{Dirs: Dirs{File: path}, Env: environ()})
	if err != nil || c.Name != "on" || c.Timeout != 7e9 {
		t.Errorf("read back: %+v, %v", c, err)
	}
	if err := Set(path, "timeot", "1s"); cluster.AsError(err).Hint != `did you mean "timeout"?` {
		t.Errorf("unknown key: %v", err)
	}
	if err := Set(path, "models.options", "[]"); cluster.AsError(err).Message != "models.options is a list" || cluster.AsError(err).Hint != "write it into "+path {
		t.Errorf("a list: %v", err)
	}
	if err := Set(path, "timeout", "x"); cluster.CodeOf(err) != cluster.CodeInvalid {
		t.Errorf("bad value: %v", err)
	}
}

func TestSetInCommentsOnly(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "config.yaml")
	write(t, path, "# nothing here yet\n")
	if err := Set(path, "timeout", "7s"); err != nil {
		t.Fatal(err)
	}
	got, _ := os.ReadFile(path)
	if diff := cmp.Diff("# nothing here yet\ntimeout: 7s\n", strings.ReplaceAll(string(got), "\n\n", "\n")); diff != "" {
		t.Error(diff)
	}
}

func TestContexts(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "config.yaml")
	x := Context{Name: "far", NATSURL: "tls://u:secret@h:4222", NATSCreds: "/c"}
	if err := AddContext(path, x); err != nil {
		t.Fatal(err)
	}
	if err := AddContext(path, x); cluster.CodeOf(err) != cluster.CodeConflict {
		t.Errorf("twice: %v", err)
	}
	if err := AddContext(path, Context{Name: "odd", NATSURL: "nowhere"}); cluster.CodeOf(err) != cluster.CodeInvalid {
		t.Errorf("bad URL: %v", err)
	}
	if err := AddContext(path, Context{Name: LocalContext}); cluster.CodeOf(err) != cluster.CodeInvalid {
		t.Errorf("local: %v", err)
	}
	if err := Set(path, "context", "far"); err != nil {
		t.Fatal(err)
	}
	c, err := Load(Options{Dirs: Dirs{Home: "/h", File: path}, Env: environ()})
	if err != nil {
		t.Fatal(err)
	}
	if c.Current() != x || c.NATSURL != x.NATSURL {
		t.Errorf("current %+v, url %s", c.Current(), c.NATSURL)
	}
	if v, _ := c.Value("nats_url"); v.Value != "tls://REDACTED@h:4222" {
		t.Errorf("secret shown: %v", v.Value)
	}
	if err := RemoveContext(path, "far"); err != nil {
		t.Fatal(err)
	}
	c, err = Load(Options{Dirs: Dirs{Home: "/h", File: path}, Env: environ()})
	if err != nil || c.Context != LocalContext || len(c.Contexts) != 0 {
		t.Errorf("after rm: %+v, %v", c, err)
	}
	var missing *NoContextError
	if err := RemoveContext(path, "far"); !errors.As(err, &missing) {
		t.Errorf("rm of nothing: %v", err)
	}
}

func TestLocate(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name string
		env  []string
		goos string
		want Dirs
	}{
		{"mac", []string{"HOME", "/u"}, "darwin", Dirs{"/u/.mlxctl", "/u/Library/Caches/mlxctl", "/u/.config/mlxctl/config.yaml"}},
		{"linux", []string{"HOME", "/u"}, "linux", Dirs{"/u/.local/state/mlxctl", "/u/.cache/mlxctl", "/u/.config/mlxctl/config.yaml"}},
		{"xdg", []string{"HOME", "/u", "XDG_STATE_HOME", "/s", "XDG_CACHE_HOME", "/c", "XDG_CONFIG_HOME", "/f"}, "linux", Dirs{"/s/mlxctl", "/c/mlxctl", "/f/mlxctl/config.yaml"}},
		{"own", []string{"MLXCTL_HOME", "/x", "MLXCTL_CACHE", "/y"}, "linux", Dirs{"/x", "/y", "/x/config.yaml"}},
	} {
		got, err := Locate(environ(c.env...), c.goos)
		if err != nil || got != c.want {
			t.Errorf("%s: %+v, %v", c.name, got, err)
		}
	}
	if _, err := Locate(environ(), "linux"); err == nil {
		t.Error("no HOME: no error")
	}
}

func FuzzFile(f *testing.F) {
	f.Add("timeout: 1s\ncontexts:\n- name: a\n")
	f.Add("a: &x [*x]")
	f.Fuzz(func(t *testing.T, data string) {
		path := filepath.Join(t.TempDir(), "config.yaml")
		write(t, path, data)
		c, err := Load(Options{Dirs: Dirs{File: path}, Env: environ()})
		if err != nil && strings.Contains(err.Error(), "\n") {
			t.Errorf("more than one line: %q", err)
		}
		if err == nil && len(c.Values()) != len(Keys())+1 {
			t.Error("values lost")
		}
	})
}

func write(t *testing.T, path, data string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(data), 0o600); err != nil {
		t.Fatal(err)
	}
}
