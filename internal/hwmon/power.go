package hwmon

import (
	"path/filepath"
	"strconv"
	"strings"
)

// mostWatts is more than any of these machines can draw.
const mostWatts = 1000

// parseBattery reads what the whole machine draws, in watts, from `ioreg -rn AppleSmartBattery -d1`, which only a Mac
// with a battery answers. The properties are described nowhere by Apple; their meaning is what published tools agree on:
//
//   - PowerTelemetryData holds SystemLoad in milliwatts, on the adapter as well as on the battery. macOS brings it up to
//     date every 10 to 60 seconds.
//   - On Macs without it, all power comes from the battery while ExternalConnected is No, so it is Voltage (millivolts)
//     times InstantAmperage (milliamperes, negative while discharging and then printed as a number of 64 bits without a
//     sign).
func parseBattery(b []byte) *float64 {
	var millivolts, milliamperes int64
	onBattery := false
	for line := range lines(b) {
		key, value, _ := strings.Cut(strings.TrimSpace(line), " = ")
		switch key {
		case `"PowerTelemetryData"`:
			if n, ok := ioregNumber(line, "SystemLoad"); ok && n > 0 {
				return watts(float64(n) / 1e3)
			}
		case `"Voltage"`:
			millivolts = signed(value)
		case `"InstantAmperage"`:
			milliamperes = signed(value)
		case `"ExternalConnected"`:
			onBattery = value == "No"
		}
	}
	if !onBattery || millivolts <= 0 || milliamperes >= 0 {
		return nil
	}
	return watts(float64(millivolts) * -float64(milliamperes) / 1e6)
}

// signed reads a number that may stand for a negative one.
func signed(text string) int64 {
	n, err := strconv.ParseUint(text, 10, 64)
	if err != nil {
		return 0
	}
	return int64(n) //nolint:gosec // that is how the sign was lost
}

func watts(w float64) *float64 {
	if w <= 0 || w > mostWatts {
		return nil
	}
	return &w
}

// power is what a machine that runs on its batteries draws from them, in watts (Documentation/ABI/testing/
// sysfs-class-power of the kernel: power_now in microwatts, or voltage_now in microvolts and current_now in
// microamperes). On the adapter nothing says it without root.
func (p *procfs) power() *float64 {
	folders, err := filepath.Glob(filepath.Join(p.root, "sys/class/power_supply/*"))
	if err != nil {
		return nil
	}
	sum := 0.0
	for _, dir := range folders {
		read := func(name string) string {
			return strings.TrimSpace(string(p.file(filepath.Join("sys/class/power_supply", filepath.Base(dir), name))))
		}
		if read("type") != "Battery" || read("scope") == "Device" || read("status") != "Discharging" {
			continue
		}
		number := func(name string) float64 { return float64(max(signed(strings.TrimPrefix(read(name), "-")), 0)) }
		drawn := number("power_now") / 1e6
		if drawn == 0 {
			drawn = number("voltage_now") * number("current_now") / 1e12
		}
		if drawn == 0 {
			return nil // a part of the sum would be a wrong number
		}
		sum += drawn
	}
	return watts(sum)
}
