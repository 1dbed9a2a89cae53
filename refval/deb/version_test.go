package deb

import (
	"os/exec"
	"testing"
)

// TestCompare asks dpkg itself.
func TestCompare(t *testing.T) {
	versions := []string{"0", "1", "1.0", "1.0-1", "1.0-1+b1", "1.0-1+deb12u1", "1.0-1~bpo12+1", "1.0~rc1-1", "1.0~~", "1.0~", "1.0a", "1.0+", "1.0.1", "1.00", "1.10", "1.9", "2.36-9+deb12u4", "2.36-9+deb12u14",
		"1:0.5-1", "2:8.39-15", "3.0.11-1~deb12u2", "3.0.9-1", "5.2.15-2+b2", "5.2.15-2", "6.12.8-1~bpo12+1", "1.2-3-4", "10.42-1", "1.2.3.4.5", "0.0.0", "1.0-0", "a", "1.0-1a", "1.0-1.1"}
	for _, a := range versions {
		for _, b := range versions {
			got := Compare(a, b)
			op := map[bool]string{true: "lt", false: "gt"}[got < 0]
			if got == 0 {
				op = "eq"
			}
			if out, err := exec.Command("dpkg", "--compare-versions", a, op, b).CombinedOutput(); err != nil {
				t.Errorf("Compare(%q, %q) = %d, dpkg does not agree: %s", a, b, got, out)
			}
		}
	}
}
