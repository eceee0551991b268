package hwmon

import (
	"math"
	"testing"

	"github.com/mlxctl/mlxctl/internal/cluster"
)

// Shapes of public models: parameters and layers of their model cards, 4.5, 8.5 and 16 bits a weight, keys and values
// in 16 bits.
func qwen3(billions float64, bits float64, layers int, kvKiB int64) cluster.Model {
	n := billions * 1e9
	return cluster.Model{
		Parameters: int64(n), WeightBytes: int64(n * bits / 8), Layers: layers, KVBytesPerToken: kvKiB << 10,
	}
}

func mac(chip string, cores int) cluster.Hardware {
	return cluster.Hardware{OS: "darwin", OSVersion: "26.2", Chip: chip, GPUCores: cores}
}

func near(t *testing.T, what string, got, want, tolerance float64) {
	t.Helper()
	if !(math.Abs(got/want-1) <= tolerance) {
		t.Errorf("%s: %.1f, want %.1f within %.0f %%", what, got, want, 100*tolerance)
	}
}

// What was measured by others with mlx-lm, tokens a second of a stream alone.
func TestExpectedDecodeIsNearWhatWasMeasured(t *testing.T) {
	t.Parallel()
	experts := qwen3(30.5, 4.5, 48, 96)
	experts.ActiveParameters = 3_300_000_000
	for _, c := range []struct {
		name      string
		hw        cluster.Hardware
		model     cluster.Model
		context   float64
		want      float64
		tolerance float64
	}{
		{"M4 Pro, 8B 4 bits", mac("Apple M4 Pro", 20), qwen3(8.19, 4.5, 36, 144), 64, 54.1, 0.15},
		{"M4 Pro, 8B 4 bits, 4096 tokens", mac("Apple M4 Pro", 20), qwen3(8.19, 4.5, 36, 144), 4096, 46.9, 0.15},
		{"M4 Pro, 8B 8 bits", mac("Apple M4 Pro", 20), qwen3(8.19, 8.5, 36, 144), 64, 30.2, 0.15},
		{"M4 Pro, 14B 4 bits", mac("Apple M4 Pro", 20), qwen3(14.8, 4.5, 40, 160), 64, 29.6, 0.15},
		{"M4 Max, 4B 4 bits", mac("Apple M4 Max", 40), qwen3(4.02, 4.5, 36, 144), 2048, 134.5, 0.15},
		{"M4 Max, 4B bf16", mac("Apple M4 Max", 40), qwen3(4.02, 16, 36, 144), 2048, 52.5, 0.15},
		{"M3 Ultra, 8B 4 bits", mac("Apple M3 Ultra", 60), qwen3(8.19, 4.5, 36, 144), 64, 113, 0.15},
		{"M3 Ultra, 14B 4 bits", mac("Apple M3 Ultra", 60), qwen3(14.8, 4.5, 40, 160), 64, 66, 0.15},
		{"M4 Max, 30B with 3.3B active", mac("Apple M4 Max", 40), experts, 2048, 113, 0.3},
	} {
		chip, ok := LookUp(c.hw.Chip, c.hw.GPUCores)
		if !ok {
			t.Fatalf("%s is not in the table", c.hw.Chip)
		}
		near(t, c.name, 1000/speed{chip: chip, model: c.model}.stepMS(1, c.context), c.want, c.tolerance)
	}
}

func TestExpectedPromptRateIsNearWhatWasMeasured(t *testing.T) {
	t.Parallel()
	experts := qwen3(30.5, 4.5, 48, 96)
	experts.ActiveParameters = 3_300_000_000
	for _, c := range []struct {
		name  string
		hw    cluster.Hardware
		model cluster.Model
		want  float64
	}{
		{"M4 Pro, 8B", mac("Apple M4 Pro", 20), qwen3(8.19, 4.5, 36, 144), 414},
		{"M4 Pro, 14B", mac("Apple M4 Pro", 20), qwen3(14.8, 4.5, 40, 160), 224},
		{"M4 Max, 4B", mac("Apple M4 Max", 40), qwen3(4.02, 4.5, 36, 144), 1622},
		{"M4 Max, 30B with 3.3B active", mac("Apple M4 Max", 40), experts, 1754},
		{"M3 Ultra, 8B", mac("Apple M3 Ultra", 60), qwen3(8.19, 4.5, 36, 144), 1069},
		{"M3 Ultra, 14B", mac("Apple M3 Ultra", 60), qwen3(14.8, 4.5, 40, 160), 607},
		{"M5 Pro, 27B", mac("Apple M5 Pro", 20), qwen3(27, 4.5, 64, 64), 478},
	} {
		got := Expect(c.hw, c.model)
		if got == nil {
			t.Fatalf("%s: nothing is expected", c.name)
		}
		near(t, c.name, got.PrefillRate(2048), c.want, 0.15)
	}
}

// The column of the table and the formula come from different hands.
func TestPredictorAgreesWithTheTable(t *testing.T) {
	t.Parallel()
	for _, c := range chips() {
		near(t, c.Name, 1000/speed{chip: c, model: qwen3(8.19, 4.5, 36, 144)}.stepMS(1, 64), c.Decode8B, 0.2)
	}
}

func TestTableIsInOrder(t *testing.T) {
	t.Parallel()
	seen := map[string]Chip{}
	for _, c := range chips() {
		before, again := seen[c.Name]
		if again && (c.GPUCores <= before.GPUCores || c.TFLOPS <= before.TFLOPS || c.BandwidthGBs < before.BandwidthGBs) {
			t.Errorf("%s with %d cores is not larger than the one before", c.Name, c.GPUCores)
		}
		seen[c.Name] = c
		if got, ok := LookUp(c.Name, c.GPUCores); !ok || got != c {
			t.Errorf("%s with %d cores is found as %+v", c.Name, c.GPUCores, got)
		}
	}
	if len(seen) != 18 {
		t.Errorf("%d names, want 18: four of M1, M2 and M3 each, three of M4 and M5", len(seen))
	}
	if got, _ := LookUp("Apple M4 Max", 0); got.GPUCores != 32 {
		t.Errorf("without a number of cores it is the one with %d", got.GPUCores)
	}
	if _, ok := LookUp("Apple M4 Max", 36); ok {
		t.Error("a variant that does not exist is found")
	}
}

func TestNothingIsExpectedOfWhatIsNotKnown(t *testing.T) {
	t.Parallel()
	model := qwen3(8.19, 4.5, 36, 144)
	noLayers, noParameters := model, model
	noLayers.Layers, noParameters.Parameters = 0, 0
	linux := mac("Apple M4 Pro", 20)
	linux.OS = "linux"
	for name, got := range map[string]*cluster.Curve{
		"unknown chip":         Expect(mac("Apple M9", 20), model),
		"no chip":              Expect(cluster.Hardware{OS: "darwin"}, model),
		"no macOS":             Expect(linux, model),
		"unknown layers":       Expect(mac("Apple M4 Pro", 20), noLayers),
		"unknown parameters":   Expect(mac("Apple M4 Pro", 20), noParameters),
		"nothing of the model": Expect(mac("Apple M4 Pro", 20), cluster.Model{}),
	} {
		if got != nil {
			t.Errorf("%s: %+v is expected", name, got)
		}
	}
}

func TestExpectedCurveGrowsWithRowsAndIsNotMeasured(t *testing.T) {
	t.Parallel()
	for _, chip := range chips() {
		got := Expect(mac(chip.Name, chip.GPUCores), qwen3(8.19, 4.5, 36, 144))
		if got == nil || !got.Valid() || got.Measured {
			t.Fatalf("%s: %+v", chip.Name, got)
		}
		for i := 1; i < len(got.Decode); i++ {
			fewer, more := got.Decode[i-1], got.Decode[i]
			if more[1] <= fewer[1] {
				t.Errorf("%s: %v rows take %v ms, %v take %v", chip.Name, more[0], more[1], fewer[0], fewer[1])
			}
			if more[0]/more[1] < fewer[0]/fewer[1] {
				t.Errorf("%s: %v rows give fewer tokens a second than %v", chip.Name, more[0], fewer[0])
			}
		}
	}
}

// Matrix units compute from macOS 26.2 on; the M5 of an older one is as fast as its 32-bit rate.
func TestAcceleratorNeedsItsSystem(t *testing.T) {
	t.Parallel()
	model := qwen3(8.19, 4.5, 36, 144)
	for version, accelerated := range map[string]bool{"26.2": true, "26.10": true, "27.0": true, "26.1.9": false, "15.7": false, "": false} {
		hw := mac("Apple M5 Pro", 20)
		hw.OSVersion = version
		got := Expect(hw, model).PrefillRate(256)
		if isFast := got > 1200; isFast != accelerated {
			t.Errorf("macOS %q: %.0f tokens a second", version, got)
		}
	}
}
