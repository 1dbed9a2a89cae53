package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// ownMounts are the settings by which a service gets a mount namespace of its own (systemd.exec(5)),
// in which no program of the host can be measured.
var ownMounts = []string{"PrivateDevices", "PrivateTmp", "PrivateMounts", "ProtectSystem", "ProtectHome", "ProtectKernelLogs", "ProtectKernelModules", "ProtectKernelTunables",
	"ProtectControlGroups", "ProtectProc", "ReadWritePaths", "ReadOnlyPaths", "InaccessiblePaths", "BindPaths", "TemporaryFileSystem", "RootDirectory"}

// TestUnits holds the units of dist/ to what systemd makes of them, and to what a node or
// an agent needs. That they run is seen under systemd in the test bed's guest.
func TestUnits(t *testing.T) {
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		unit    string
		has     []string // lines
		lacks   []string // settings
		restart string
	}{
		{"keystead-node.service", []string{"DeviceAllow=/dev/tpmrm0 rw", "TimeoutStartSec=infinity", "RestartPreventExitStatus=1 2 5 7"}, []string{"PrivateDevices", "DynamicUser", "User", "PrivateUsers"}, "on-failure"},
		{"keystead-node-notpm.service", []string{"User=keystead", "PrivateDevices=yes", "TimeoutStartSec=infinity", "RestartPreventExitStatus=1 2 5 7"}, []string{"DynamicUser", "DeviceAllow"}, "on-failure"},
		{"keystead-agent.service", []string{"DeviceAllow=/dev/tpmrm0 rw", "RestartPreventExitStatus=1"}, append([]string{"DynamicUser"}, ownMounts...), "always"},
	} {
		t.Run(tc.unit, func(t *testing.T) {
			text, err := os.ReadFile(filepath.Join("../../dist", tc.unit))
			if err != nil {
				t.Fatal(err)
			}
			here := strings.ReplaceAll(string(text), "/usr/bin/keystead", self) // systemd looks for the program
			path := filepath.Join(t.TempDir(), tc.unit)
			if err := os.WriteFile(path, []byte(here), 0o644); err != nil {
				t.Fatal(err)
			}
			if out, err := exec.Command("systemd-analyze", "verify", "--man=no", path).CombinedOutput(); err != nil || len(out) > 0 {
				t.Errorf("systemd-analyze verify: %v: %s", err, out)
			}
			// Left to itself systemd gives up after five starts in ten seconds.
			for _, line := range append(tc.has, "StartLimitIntervalSec=0", "RestartSec=2", "Restart="+tc.restart, "Type=notify") {
				if !strings.Contains(here, "\n"+line+"\n") {
					t.Errorf("lacks %s", line)
				}
			}
			for _, setting := range tc.lacks {
				if strings.Contains(here, "\n"+setting+"=") {
					t.Errorf("has %s", setting)
				}
			}
			config := regexp.MustCompile(`--config (\S+)/(?:keystead|agent)\.toml`).FindStringSubmatch(here)
			writes := regexp.MustCompile(`\n(?:StateDirectory=|ReadWritePaths=)(\S+)`).FindStringSubmatch(here)
			if config == nil || writes == nil && tc.unit != "keystead-agent.service" { // which may write all that root may
				t.Errorf("no configuration, or no directory that may be written: %v, %v", config, writes)
				return
			}
			if writes != nil && config[1] != writes[1] && config[1] != "/var/lib/"+writes[1] {
				t.Errorf("the configuration's directory, which dir = %q names, is %v, and what may be written %v", ".", config, writes)
			}
		})
	}
}
