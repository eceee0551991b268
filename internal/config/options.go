package config

import (
	"os"
	"path/filepath"
	"time"

	"github.com/mlxctl/mlxctl/internal/cluster"
)

// optionsKey is the list of options of single models.
const optionsKey = "models.options"

// ModelOptions are options of one model on this machine. What is nil or zero is as in Models.
type ModelOptions struct {
	Name        string         `mapstructure:"name"`
	Adapter     string         `mapstructure:"adapter"`
	Draft       string         `mapstructure:"draft"`
	KVBits      int            `mapstructure:"kv_bits"`
	Pinned      bool           `mapstructure:"pinned"`
	IdleTTL     *time.Duration `mapstructure:"idle_ttl"`
	Context     int            `mapstructure:"context"`
	MaxRows     int            `mapstructure:"max_rows"`
	MemoryBytes int64          `mapstructure:"memory"`
	PrefixBytes int64          `mapstructure:"prefix_bytes"`
	PrefixShare int            `mapstructure:"prefix_share"`
	StoredBits  *int           `mapstructure:"stored_bits"`
	Speculate   string         `mapstructure:"speculate"`
}

// optionKeys are the fields of one entry of models.options.
func optionKeys() []Key {
	bits := []string{"0", "4", "8"}
	return []Key{
		{Name: "name", Doc: "the model, as requests name it"},
		{Name: "adapter", Kind: Path, Doc: "folder of a LoRA adapter"},
		{Name: "draft", Doc: "name or folder of a small model that guesses ahead"},
		{Name: "kv_bits", Kind: Choice, Choices: bits, Doc: "quantise keys and values of running requests; 0 does not"},
		{Name: "pinned", Kind: Choice, Choices: []string{"true", "false"}, Doc: "load it at the start and never evict it"},
		{Name: "idle_ttl", Kind: Duration, Doc: "as models.idle_ttl"},
		{Name: "context", Kind: Count, Doc: "tokens of prompt and answer; at most what the model has"},
		{Name: "max_rows", Kind: Count, Doc: "as models.max_rows"},
		{Name: "memory", Kind: Size, Doc: "most that it may use"},
		{Name: "prefix_bytes", Kind: Size, Doc: "as models.prefix_bytes"},
		{Name: "prefix_share", Kind: Percent, Doc: "as models.prefix_share"},
		{Name: "stored_bits", Kind: Choice, Choices: bits, Doc: "as models.stored_bits"},
		{Name: "speculate", Kind: Choice, Choices: []string{"auto", "off"}, Doc: "as models.speculate"},
	}
}

// CheckFolders wants the folders that options name. Its errors are one line, of cluster.CodeInvalid.
func (m Models) CheckFolders() error {
	for _, o := range m.Options {
		for _, f := range []struct{ what, path string }{{"adapter", o.Adapter}, {"draft", o.Draft}} {
			if !filepath.IsAbs(f.path) {
				continue // none, or a name
			}
			if info, err := os.Stat(f.path); err != nil || !info.IsDir() {
				return cluster.Errorf(cluster.CodeInvalid, "%s: %s of model %s: there is no folder %s", optionsKey, f.what, o.Name, f.path)
			}
		}
	}
	return nil
}
