package arch

import (
	"encoding/json"
	"errors"
	"io"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

const module = "github.com/mlxctl/mlxctl"

// pkg is what `go list -json` says of one package, as far as it is looked at here.
type pkg struct {
	ImportPath  string
	Doc         string
	Imports     []string
	GoFiles     []string
	TestGoFiles []string
}

func (p *pkg) name() string {
	return strings.TrimPrefix(strings.TrimPrefix(p.ImportPath, module), "/")
}

// arrows lists what each package of ours may import of ours, and of the outside systems that have one importer. A
// package that is not listed here fails the test: whoever adds one decides where it stands.
func arrows() map[string][]string {
	words := "internal/cluster"
	return map[string][]string{
		"agent":                       {words, "internal/bootstrap/plan", "internal/bus", "internal/durable", "internal/hwmon", "internal/library", "internal/logtail", "mlxbridge", "sched"},
		"cmd":                         {"*"},
		"cmd/mlxctl":                  {"cmd"},
		"internal/arch":               {},
		"internal/bench":              {"*"},
		"internal/bonjour":            {words, "internal/untrusted"},
		"internal/bootstrap":          {words, "internal/bootstrap/plan", "internal/durable", "internal/untrusted"},
		"internal/bootstrap/host":     {words, "internal/bootstrap/plan", "internal/bootstrap/unit", "internal/durable", "internal/untrusted"},
		"internal/bootstrap/plan":     {words},
		"internal/bootstrap/sighting": {words, "internal/bonjour", "internal/bootstrap", "internal/config", "internal/roster"},
		"internal/bootstrap/unit":     {words, "internal/bootstrap/plan", "internal/durable", "internal/service"},
		"internal/bus":                {words, "internal/durable", "internal/flood"},
		"internal/bus/bustest":        {words, "internal/bus", "internal/freeport", "internal/trust"},
		"internal/client":             {words, "internal/bus", "internal/controller/api"},
		"internal/cluster":            {},
		"internal/config":             {words, "internal/durable"},
		"internal/controller":         {words, "internal/bus", "internal/controller/api", "internal/flood", "internal/logtail", "internal/share", "sched"},
		"internal/controller/api":     {words},
		"internal/doctor":             {words, "internal/bootstrap", "internal/bootstrap/plan"},
		"internal/durable":            {},
		"internal/enrol":              {words, "internal/flood", "internal/roster", "internal/trust", "internal/untrusted"},
		"internal/flood":              {},
		"internal/freeport":           {},
		"internal/gateway":            {words, "internal/flood", "internal/gateway/openai", "internal/gateway/wire"},
		"internal/gateway/openai":     {words, "internal/gateway/wire"},
		"internal/gateway/wire":       {words},
		"internal/hwmon":              {words},
		"internal/iostreams":          {},
		"internal/lab":                {},
		"internal/lab/scenario":       {"internal/lab"},
		"internal/lab/up":             {"internal/lab"},
		"internal/library":            {words, "internal/durable"},
		"internal/logtail":            {},
		"internal/printer":            {words, "internal/iostreams", "internal/untrusted"},
		"internal/reach":              {words, "internal/bootstrap/plan", "internal/durable", "internal/flood"},
		"internal/roster":             {words, "internal/durable"},
		"internal/service":            {words, "internal/durable"},
		"internal/share":              {words},
		"internal/trust":              {words, "internal/durable"},
		"internal/untrusted":          {},
		"mlxbridge":                   {words, "internal/durable", "mlxbridge/worker"},
		"mlxbridge/enginetest":        {words, "internal/library", "mlxbridge"},
		"mlxbridge/worker":            {},
		"sched":                       {words},
		"tui":                         {words, "tui/chart"},
		"tui/chart":                   {},
	}
}

// owners lists the packages that alone may import an outside system.
func owners() map[string][]string {
	return map[string][]string{
		"github.com/nats-io/nats.go":       {"internal/bus"},
		"github.com/nats-io/nats-server":   {"internal/bus"},
		"github.com/nats-io/jwt":           {"internal/bus", "internal/trust"},
		"github.com/nats-io/nkeys":         {"internal/bus", "internal/trust"},
		"github.com/spf13/viper":           {"internal/config"},
		"github.com/spf13/cobra":           {"cmd"},
		"charm.land/":                      {"tui"},
		"github.com/grandcat/zeroconf":     {"internal/bonjour"},
		"github.com/miekg/dns":             {"internal/bonjour"},
		"golang.org/x/crypto/ssh":          {"internal/bootstrap"},
		"github.com/skeema/knownhosts":     {"internal/bootstrap"},
		"github.com/kevinburke/ssh_config": {"internal/bootstrap"},
	}
}

func TestArrows(t *testing.T) {
	t.Parallel()
	allowed := arrows()
	for _, p := range list(t) {
		may, known := allowed[p.name()]
		if !known {
			t.Errorf("package %q has no place yet: add it to arrows", p.name())
			continue
		}
		for _, path := range p.Imports {
			if ours, ok := strings.CutPrefix(path, module+"/"); ok {
				if !slices.Contains(may, "*") && !slices.Contains(may, ours) {
					t.Errorf("%s imports %s", p.name(), ours)
				}
				continue
			}
			for system, by := range owners() {
				if strings.HasPrefix(path, system) && !slices.Contains(by, p.name()) {
					t.Errorf("%s imports %s, which is for %s", p.name(), path, strings.Join(by, " and "))
				}
			}
		}
	}
}

func TestPackagesSayWhatTheyAreFor(t *testing.T) {
	t.Parallel()
	for _, p := range list(t) {
		if p.Doc == "" {
			t.Errorf("%s has no package comment", p.name())
		}
		for _, banned := range []string{"util", "utils", "common", "helper", "helpers", "types", "manager", "misc"} {
			if last := p.ImportPath[strings.LastIndex(p.ImportPath, "/")+1:]; last == banned {
				t.Errorf("%s says nothing by its name", p.name())
			}
		}
	}
}

// list asks the go command for every package of the module.
func list(t *testing.T) []pkg {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "go", "list", "-json=ImportPath,Doc,Imports,GoFiles,TestGoFiles", module+"/...")
	out, err := cmd.Output()
	if err != nil {
		if exit, ok := errors.AsType[*exec.ExitError](err); ok {
			t.Fatalf("go list: %v\n%s", err, exit.Stderr)
		}
		t.Fatal(err)
	}
	var all []pkg
	for d := json.NewDecoder(strings.NewReader(string(out))); ; {
		var p pkg
		err := d.Decode(&p)
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, p)
	}
	if len(all) < 10 {
		t.Fatalf("go list named %d packages only", len(all))
	}
	return all
}
