package hwmon

import (
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// The shape is that of public listings of ioreg -rn AppleSmartBattery -d1; it was not recorded on a Mac of ours.
const ioregBattery = `+-o AppleSmartBattery  <class AppleSmartBattery, id 0x100000a5c, registered, matched, active, busy 0 (0 ms), retain 8>
    {
      "PostChargeWaitSeconds" = 120
      "AppleRawAdapterDetails" = ()
      "ExternalConnected" = No
      "PowerTelemetryData" = {"WallEnergyEstimate"=0,"SystemEnergyConsumed"=0,"SystemVoltageIn"=0,"SystemLoad"=42100,"AccumulatedSystemLoad"=112400123,"BatteryPower"=42100,"SystemPowerIn"=0}
      "InstantAmperage" = 18446744073709548116
      "Voltage" = 12000
      "LegacyBatteryInfo" = {"Amperage"=18446744073709548616,"Flags"=4,"Capacity"=6000,"Current"=4000,"Voltage"=1}
      "BatteryData" = {"Voltage"=3,"CycleCount"=50}
    }
`

func TestParseBattery(t *testing.T) {
	t.Parallel()
	without := strings.ReplaceAll(ioregBattery, "PowerTelemetryData", "OtherData")
	for _, c := range []struct {
		name, text string
		want       float64 // 0: absent
	}{
		{"telemetry", ioregBattery, 42.1},
		{"telemetry on the adapter", strings.Replace(ioregBattery, "= No", "= Yes", 1), 42.1},
		{"telemetry that holds nothing yet", strings.Replace(ioregBattery, `"SystemLoad"=42100`, `"SystemLoad"=0`, 1), 42},
		{"no telemetry, on the battery: 12 V and 3.5 A", without, 42},
		{"no telemetry, on the adapter", strings.Replace(without, "= No", "= Yes", 1), 0},
		{"no telemetry, charging", strings.Replace(without, "18446744073709548116", "3500", 1), 0},
		{"no voltage", strings.Replace(without, `"Voltage" = 12000`, "", 1), 0},
		{"a load that cannot be", strings.Replace(ioregBattery, "=42100,", "=18446744073709548116,", 1), 42},
		{"a load beyond all", strings.Replace(ioregBattery, `"SystemLoad"=42100`, `"SystemLoad"=42100000`, 1), 0},
		{"no battery", "", 0},
		{"garbage", "\"Voltage\" = x\n\"InstantAmperage\" = -3\n\"ExternalConnected\" = No\n", 0},
	} {
		got := parseBattery([]byte(c.text))
		switch {
		case c.want == 0 && got != nil:
			t.Errorf("%s: %v W out of nowhere", c.name, *got)
		case c.want != 0:
			is(t, c.name, got, c.want)
		}
	}
}

func TestMacPower(t *testing.T) {
	t.Parallel()
	is(t, "power", fakeMac(map[string]string{"battery": ioregBattery}).load(t.Context()).PowerWatts, 42.1)

	desktop := map[string]string{"battery": ""}
	m := fakeMac(desktop)
	for range 2 {
		if got := m.load(t.Context()).PowerWatts; got != nil {
			t.Errorf("%v W without a battery", *got)
		}
		desktop["battery"] = ioregBattery
	}
	if !m.hasNoBattery {
		t.Error("a Mac without a battery is asked for it again and again")
	}
}

func TestLinuxPower(t *testing.T) {
	t.Parallel()
	battery := map[string]string{"type": "Battery", "status": "Discharging", "power_now": "15500000"}
	with := func(base map[string]string, more ...string) map[string]string {
		out := maps.Clone(base)
		for i := 0; i < len(more); i += 2 {
			out[more[i]] = more[i+1]
		}
		return out
	}
	volts := with(battery, "power_now", "", "voltage_now", "12000000", "current_now", "-1500000")
	for _, c := range []struct {
		name     string
		supplies map[string]map[string]string
		want     float64 // 0: absent
	}{
		{"none", nil, 0},
		{"power", map[string]map[string]string{"BAT0": battery}, 15.5},
		{"voltage and current", map[string]map[string]string{"BAT0": volts}, 18},
		{"two", map[string]map[string]string{"BAT0": battery, "BAT1": volts}, 33.5},
		{"on the adapter", map[string]map[string]string{"AC": {"type": "Mains"}, "BAT0": with(battery, "status", "Charging")}, 0},
		{"a mouse", map[string]map[string]string{"hidpp": with(battery, "scope", "Device")}, 0},
		{"one of two that does not say", map[string]map[string]string{"BAT0": battery, "BAT1": with(battery, "power_now", "")}, 0},
		{"garbage", map[string]map[string]string{"BAT0": with(battery, "power_now", "many")}, 0},
	} {
		root := t.TempDir()
		for name, files := range c.supplies {
			dir := filepath.Join(root, "sys/class/power_supply", name)
			if err := os.MkdirAll(dir, 0o755); err != nil {
				t.Fatal(err)
			}
			for file, text := range files {
				if err := os.WriteFile(filepath.Join(dir, file), []byte(text+"\n"), 0o600); err != nil {
					t.Fatal(err)
				}
			}
		}
		got := (&procfs{root: root}).load(t.Context()).PowerWatts
		switch {
		case c.want == 0 && got != nil:
			t.Errorf("%s: %v W out of nowhere", c.name, *got)
		case c.want != 0:
			is(t, c.name, got, c.want)
		}
	}
}
