package config

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/mlxctl/mlxctl/internal/cluster"
)

func TestParseHost(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]Host{
		"studio":                 {Host: "studio"},
		"studio.local.":          {Host: "studio.local."},
		"anna@10.0.0.5":          {Host: "10.0.0.5", User: "anna"},
		"anna@studio:2222":       {Host: "studio", User: "anna", Port: 2222},
		"fe80::1%en0":            {Host: "fe80::1%en0"},
		"[fe80::1%en0]:22":       {Host: "fe80::1%en0", Port: 22},
		"Freds-MacBook-Pro:22":   {Host: "Freds-MacBook-Pro", Port: 22},
		"a_user.name@some_alias": {Host: "some_alias", User: "a_user.name"},
	} {
		got, err := ParseHost(text)
		if err != nil || got != want {
			t.Errorf("%q: %+v, %v", text, got, err)
		}
		if again, err := ParseHost(got.String()); err != nil || again != got {
			t.Errorf("%q written as %q: %+v, %v", text, got.String(), again, err)
		}
	}
	for _, text := range []string{"", "@studio", "anna@", "-oProxyCommand=x", "a b", "studio:0", "studio:70000", "a\x1b[2J", "anna@-x", "-x@studio", "studio/x"} {
		if h, err := ParseHost(text); err == nil {
			t.Errorf("%q: %+v", text, h)
		}
	}
}

func TestHostsInFile(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "config.yaml")
	write(t, path, "hosts:\n  - studio\n  - host: mini\n    user: anna\n    port: 2222\nssh:\n  user: ops\n  parallel: 3\n")
	c, err := Load(Options{Dirs: Dirs{File: path}, Env: environ()})
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]Host{{Host: "studio"}, {Host: "mini", User: "anna", Port: 2222}}, c.HostList()); diff != "" {
		t.Error(diff)
	}
	if c.SSH != (SSH{Transport: "library", User: "ops", Parallel: 3}) {
		t.Errorf("%+v", c.SSH)
	}
	v, ok := c.Value("hosts")
	if diff := cmp.Diff([]string{"studio", "anna@mini:2222"}, v.Value); diff != "" || !ok || v.Origin.String() != "file "+path+":2" {
		t.Errorf("%+v %s", v, diff)
	}
	for text, want := range map[string]string{
		"hosts: studio\n":                          "must be a list",
		"hosts: [\"a b\"]\n":                       "hosts[0] must be a host",
		"hosts: [{host: a, colour: red}]\n":        "unknown key",
		"hosts: [{user: a}]\n":                     "must be a host",
		"hosts: [{host: a, port: 99999}]\n":        "port",
		"hosts: [[a]]\n":                           "must be a host",
		"ssh: {transport: telnet}\n":               "library or openssh",
		"ssh: {parallell: 2}\n":                    "ssh.parallel",
		"hosts: [{host: \"-oProxyCommand=evil\"}]": "must be a host",
	} {
		write(t, path, text)
		_, err := Load(Options{Dirs: Dirs{File: path}, Env: environ()})
		if err == nil || strings.Contains(err.Error(), "\n") || !strings.Contains(err.Error()+hintOf(err), want) {
			t.Errorf("%q: %v", text, err)
		}
	}
}

func hintOf(err error) string { return cluster.AsError(err).Hint }

func TestSetRefusesWhatNothingCouldUse(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "config.yaml")
	for _, kv := range [][2]string{
		{"name", "a\nb"},
		{"name", "a\x1b[2J"},
		{"name", " a"},
		{"name", strings.Repeat("x", 5000)},
		{"context", "nowhere"},
		{"models.memory", "1e3"},
		{"models.memory", "0x10"},
		{"models.memory", ""},
		{"models.memory", "GiB"},
		{"models.memory", "1_000"},
		{"models.max_rows", "+5"},
		{"models.prefix_share", "+5"},
		{"models.hub_dirs", "/a::/b"},
		{"http_addr", "some host:80"},
		{"http_addr", "localhost:+80"},
		{"nats_url", "http://h:1"},
		{"http_url", "tls://h:1"},
		{"hosts", "a,b c"},
		{"ssh.parallel", "-1"},
	} {
		if err := Set(path, kv[0], kv[1]); err == nil || strings.ContainsAny(err.Error(), "\n\x1b") {
			t.Errorf("%s=%q: %v", kv[0], kv[1], err)
		}
	}
	if _, err := os.Stat(path); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a refused value made the file: %v", err)
	}
	for _, kv := range [][2]string{
		{"name", "Anna’s Büro"},
		{"models.memory", "1.5 GiB"},
		{"hosts", "studio, anna@mini:22"},
		{"http_addr", "[::1]:8640"},
		{"http_addr", ":8640"},
		{"context", "local"},
	} {
		if err := Set(path, kv[0], kv[1]); err != nil {
			t.Errorf("%s=%q: %v", kv[0], kv[1], err)
		}
	}
	c, err := Load(Options{Dirs: Dirs{File: path}, Env: environ()})
	if err != nil || len(c.HostList()) != 2 || c.Name != "Anna’s Büro" {
		t.Errorf("%+v, %v", c, err)
	}
}

func TestOptionsOfModelsAreShown(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "config.yaml")
	write(t, path, "models:\n  options:\n    - name: org/coder\n      pinned: true\n")
	c, err := Load(Options{Dirs: Dirs{File: path}, Env: environ()})
	if err != nil {
		t.Fatal(err)
	}
	v, ok := c.Value("models.options")
	want := []map[string]any{{"name": "org/coder", "pinned": "true"}}
	if diff := cmp.Diff(want, v.Value); diff != "" || !ok || v.Origin.String() != "file "+path+":3" {
		t.Errorf("%+v %s", v, diff)
	}
}
