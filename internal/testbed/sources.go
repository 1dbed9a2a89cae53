package testbed

import (
	"context"
	"fmt"
	"os"
	"slices"
	"strings"
)

// sources are where the guest's packages come from: this machine's own.
type sources struct {
	suite  string
	lines  []string // one-line form of sources.list(5)
	kernel string   // package
	other  string   // package of another kernel
}

// kernels are the packages of Debian-signed kernels, the wanted one first.
var kernels = []string{"linux-image-6.12-amd64", "linux-image-amd64"}

// otherFlavour ends the name and the version of Debian's kernel for virtual machines.
const otherFlavour = "-cloud-amd64"

// keyring is Debian's own, of package debian-archive-keyring.
const keyring = "/usr/share/keyrings/debian-archive-keyring.gpg"

func findSources(ctx context.Context) (s sources, err error) {
	release, err := os.ReadFile("/etc/os-release")
	if err != nil {
		return s, err
	}
	for line := range strings.Lines(string(release)) {
		if v, ok := strings.CutPrefix(strings.TrimSpace(line), "VERSION_CODENAME="); ok {
			s.suite = strings.Trim(v, `"`)
		}
	}
	targets, err := output(ctx, "apt-get", "indextargets", "--format", "$(REPO_URI)|$(RELEASE)|$(COMPONENT)|$(ORIGIN)", "Created-By: Packages")
	if err != nil {
		return s, err
	}
	for line := range strings.Lines(targets) {
		f := strings.Split(strings.TrimSpace(line), "|")
		if len(f) != 4 || f[2] != "main" || !strings.HasPrefix(f[1], s.suite) || f[3] != "Debian" {
			continue
		}
		if l := fmt.Sprintf("deb [signed-by=%s] %s %s main", keyring, f[0], f[1]); !slices.Contains(s.lines, l) {
			s.lines = append(s.lines, l)
		}
	}
	if s.suite == "" || len(s.lines) == 0 {
		return s, fmt.Errorf("apt names no repository of Debian's suite %q: the bed needs a Debian machine with its package lists (apt-get update)", s.suite)
	}
	for _, k := range kernels {
		if _, err := output(ctx, "apt-cache", "show", "--no-all-versions", k); err == nil {
			s.kernel, s.other = k, strings.TrimSuffix(k, "-amd64")+otherFlavour
			return s, nil
		}
	}
	return s, fmt.Errorf("apt offers none of %v", kernels)
}
