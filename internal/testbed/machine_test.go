//go:build testbed

package testbed

import (
	"archive/tar"
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/encoding/protojson"

	"github.com/keystead/keystead"
	apiv1 "github.com/keystead/keystead/api/v1"
	"github.com/keystead/keystead/internal/debrepo"
	"github.com/keystead/keystead/refval"
)

// Where the guest has what is not of a package.
const (
	programPath = "/usr/bin/keystead"
	unitPath    = "/etc/systemd/system/keystead-agent.service"
	hostName    = "guest"
)

// repositoryRoot is where `make testbed` leaves the program and the guest's image.
const repositoryRoot = "../.."

// stage is a guest with an agent, in a domain outside of it.
type stage struct {
	*testing.T
	ctx    context.Context
	bed    *Bed
	domain *Domain
	guest  *Guest
	mirror *Mirror
	refs   []string // of hosts, with their recipes
	recipe []string
	codes  []string // code sets
}

// TestMachineInADomain has a real machine, if emulated, run the agent in a domain of
// three nodes: through installations and upgrades of packages it stays admitted; what
// no package or code set names ends its lease, with the file's name; and a boot that
// no code set accepts is told with the register and the event.
func TestMachineInADomain(t *testing.T) {
	s := newStage(t)
	s.step("admitted", s.enrolled)
	s.step("package installed", s.installed)
	s.step("package upgraded without a reboot", s.upgraded)
	s.step("script read by sh", s.scriptRead)
	s.step("executable script of no package", s.scriptRun)
	s.step("program of no package", s.unknown)
	s.step("package's program changed", s.altered)
	s.step("package of Debian installed", s.debian)
	s.step("nodes as services", s.services)
	s.step("another command line", s.otherBoot)
	s.step("another kernel", s.otherKernel)
}

func newStage(t *testing.T) *stage {
	ctx, end := context.WithCancel(context.Background()) // the test's own ends before its cleanup
	t.Cleanup(end)
	s := &stage{T: t, ctx: ctx, refs: []string{guestRefs}, recipe: []string{"none"}, codes: []string{guestCode}}
	program, err := filepath.Abs(filepath.Join(repositoryRoot, "build/keystead"))
	s.check(err)
	unit, err := filepath.Abs(filepath.Join(repositoryRoot, "dist/keystead-agent.service"))
	s.check(err)
	s.bed, err = Build(s.ctx, Options{Cache: filepath.Join(repositoryRoot, "build/guest"), Progress: t.Logf})
	s.check(err)
	t.Cleanup(func() { s.check(s.bed.Close()) })
	start := time.Now()
	s.domain, err = s.bed.Found(s.ctx, program, map[string]string{programPath: program})
	s.check(err)
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("nodes:\n%s\n%s\n%s", s.domain.sh.Log("n1"), s.domain.sh.Log("n2"), s.domain.sh.Log("n3"))
		}
		s.check(s.domain.Close())
	})
	t.Logf("a domain of three nodes after %.1f s", time.Since(start).Seconds())
	s.mirror, err = NewMirror()
	s.check(err)
	t.Cleanup(func() { s.check(s.mirror.Close()) })
	s.check(s.mirror.WriteRoot(s.domain.at("apt")))
	s.guest, err = s.bed.Start(s.ctx, s.domain.Authority(), map[string]string{programPath: program, unitPath: unit})
	s.check(err)
	t.Cleanup(func() {
		if t.Failed() {
			ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
			defer cancel()
			out, _ := s.guest.Run(ctx, "journalctl --no-pager -n 40 -u keystead-agent; keystead agent status")
			t.Logf("agent:\n%s", out)
		}
		s.check(s.guest.Close())
	})
	return s
}

func (s *stage) check(err error) {
	s.Helper()
	if err != nil {
		s.Fatal(err)
	}
}

// step runs a part of the story, which ends with the first that fails.
func (s *stage) step(name string, do func()) {
	start := time.Now()
	do()
	s.Logf("%-40s %6.1f s", name, time.Since(start).Seconds())
}

// run has the guest run a script, which must end well.
func (s *stage) run(script string) string {
	s.Helper()
	out, err := s.guest.Run(s.ctx, script)
	s.check(err)
	return out
}

// await waits for the domain to say that of the host's lease.
func (s *stage) await(what string, ok func(*apiv1.Lease) bool) *apiv1.Lease {
	s.Helper()
	h, err := s.domain.Await(s.ctx, hostName, what, func(h *apiv1.Host) bool { return h.GetLease() != nil && ok(h.GetLease()) })
	s.check(err)
	return h.GetLease()
}

// admitted waits for a lease, newer than a version.
func (s *stage) admitted(after uint64) *apiv1.Lease {
	s.Helper()
	return s.await("admitted", func(l *apiv1.Lease) bool { return l.GetVersion() > after && l.GetSuspended() == nil })
}

// stays wants the lease renewed by evidence of after now, and not admitted anew.
func (s *stage) stays(lease *apiv1.Lease) {
	s.Helper()
	now := uint64(time.Now().UnixMilli())
	got := s.await("renewed", func(l *apiv1.Lease) bool { return l.GetSuspended() != nil || l.GetRenewedMs() > now })
	if got.GetSuspended() != nil || got.GetVersion() != lease.GetVersion() {
		s.Fatalf("lease %d is now %v", lease.GetVersion(), got)
	}
}

// suspended waits for the lease's end, and wants it to say why, as the pattern does.
func (s *stage) suspended(pattern string) {
	s.Helper()
	start := time.Now()
	l := s.await("suspended", func(l *apiv1.Lease) bool { return l.GetSuspended() != nil })
	said := l.GetSuspended().GetFindings()[0].GetGot()
	if !regexp.MustCompile(pattern).MatchString(said) {
		s.Fatalf("suspended because %s, want %s", said, pattern)
	}
	s.Logf("revoked after %.1f s: %s", time.Since(start).Seconds(), said)
}

func (s *stage) finding(r *apiv1.Refusal, reason, where, want string) *apiv1.Finding {
	s.Helper()
	for _, f := range r.GetFindings() {
		if f.GetReason() == reason && regexp.MustCompile(where).MatchString(f.GetWhere()) && strings.Contains(f.GetWant(), want) {
			s.Logf("refused: %s: %s: want %s, got %s", f.GetReason(), f.GetWhere(), f.GetWant(), f.GetGot())
			return f
		}
	}
	s.Fatalf("want a finding %s of %s with %q, got %v", reason, where, want, r)
	return nil
}

// lease is the host's as the domain has it now.
func (s *stage) lease() *apiv1.Lease {
	s.Helper()
	return s.await("known", func(*apiv1.Lease) bool { return true })
}

// reboot has the guest reset, and waits until it is admitted anew.
func (s *stage) reboot() {
	s.Helper()
	before := s.lease().GetVersion()
	s.check(s.guest.Reboot(s.ctx, Boot{}))
	s.admitted(before)
}

// enrolled: the host shows its identity, a member enrols it, the agent goes on by itself.
func (s *stage) enrolled() {
	domain, err := os.ReadFile(s.domain.at(DomainFile))
	s.check(err)
	s.check(s.guest.Write(s.ctx, "/run/domain.json", "644", domain))
	out := s.run(`set -e
keystead agent init /etc/keystead-agent --host ` + hostName + ` --domain /run/domain.json --digest ` + s.domain.Digest.String() + `
sed -i 's/^interval-ms = 0$/interval-ms = 1000/' /etc/keystead-agent/agent.toml
systemctl enable --now keystead-agent
`)
	m := regexp.MustCompile(`(?m)^identity:  (sha256:[0-9a-f]{64})$`).FindStringSubmatch(out)
	if m == nil {
		s.Fatalf("agent init said %s", out)
	}
	s.run("keystead agent status --wait unenrolled --timeout 2m")
	_, err = s.domain.Member(s.ctx, "host", "enrol", hostName, "--ek", m[1])
	s.check(err)
	l := s.admitted(0)
	if l.GetAssurance() != "test" {
		s.Errorf("assurance %q of a software TPM", l.GetAssurance())
	}
	s.stays(l)
}

// tool is a package of the bed's own, with a script that dpkg executes.
func tool(version byte) debrepo.Package {
	v := fmt.Sprintf("%d.0", version)
	deb := debrepo.Installable("bed-tool", v, map[string]string{"postinst": "#!/bin/sh\nset -e\n# " + v + "\nbed-tool || true\n"},
		tar.Header{Name: "./", Typeflag: tar.TypeDir, Mode: 0o755}, tar.Header{Name: "./usr/", Typeflag: tar.TypeDir, Mode: 0o755}, tar.Header{Name: "./usr/bin/", Typeflag: tar.TypeDir, Mode: 0o755},
		tar.Header{Name: "./usr/bin/bed-tool", Typeflag: tar.TypeReg, Mode: 0o755, Uname: string(stranger(version))})
	return debrepo.Package{Name: "bed-tool", Version: v, Architecture: "amd64", Deb: deb, NoMD5: true}
}

// offer puts a version on the mirror, and has the domain endorse its reference set: it is
// built through the mirror's signed index, and every node builds it again.
func (s *stage) offer(version byte) {
	p := tool(version)
	s.mirror.Offer(p)
	s.endorse(fmt.Sprintf("v%d", version), listed(p.Name, p.Version), "--root", "apt", "--executable")
	s.terms()
}

// listed is a package list that has one package.
func listed(name, version string) string {
	return fmt.Sprintf("Package: %s\nStatus: install ok installed\nArchitecture: amd64\nVersion: %s\n", name, version)
}

// endorse builds the reference set of a package list through the signed index of a mirror,
// this machine's own if no other is said, has every node build it again, and returns the files
// that it was built from. The next terms name the set.
func (s *stage) endorse(name, status string, how ...string) (parts []string) {
	s.check(os.WriteFile(s.domain.at(name+".status"), []byte(status), 0o644))
	_, err := s.domain.Do(s.ctx, append([]string{"refval", "build", "--cache", "cache", "--status", name + ".status", "--fresh", "--complete",
		"--out", name + ".refs", "--recipe", name + ".recipe", "--parts", name + ".parts"}, how...)...)
	s.check(err)
	parts, err = filepath.Glob(s.domain.at(name + ".parts/*"))
	s.check(err)
	_, err = s.domain.Do(s.ctx, append([]string{"domain", "object", "put", wait}, parts...)...)
	s.check(err)
	s.refs, s.recipe = append(s.refs, name+".refs"), append(s.recipe, name+".recipe")
	return parts
}

// terms has the nodes judge hosts by the reference sets of now.
func (s *stage) terms() {
	args := []string{"domain", "terms", "set", "host", "--policy", "demo", "--test-roots", EKRoot, "--yes"}
	for _, name := range s.codes {
		args = append(args, "--codeset", name)
	}
	for i := range s.refs {
		args = append(args, "--refs", s.refs[i], "--recipe", s.recipe[i])
	}
	_, err := s.domain.Member(s.ctx, args...)
	s.check(err)
}

func (s *stage) installed() {
	l := s.lease()
	s.offer(1)
	s.check(s.guest.Write(s.ctx, MirrorKey, "644", s.mirror.Key()))
	s.check(s.guest.Write(s.ctx, "/etc/apt/sources.list", "644", []byte(s.mirror.Source(MirrorKey, true))))
	s.run("set -e\napt-get -q update\napt-get -q -y install bed-tool\ndpkg -s bed-tool\nbed-tool || [ $? = 1 ]")
	s.stays(l)
}

// upgraded: the old version has run, and is not the package's any more. While the terms
// name both the host stays; once they name the new one alone, it does not.
func (s *stage) upgraded() {
	l := s.lease()
	s.offer(2)
	s.run("set -e\napt-get -q update\napt-get -q -y upgrade\nbed-tool || [ $? = 2 ]")
	s.stays(l)
	refs, recipe := s.refs, s.recipe
	s.refs, s.recipe = []string{guestRefs, "v2.refs"}, []string{"none", "v2.recipe"}
	s.terms()
	s.suspended(`file-altered: /(usr/bin/bed-tool|var/lib/dpkg/info/bed-tool\.postinst): want \S+ of package bed-tool 2\.0, got`)
	s.refs, s.recipe = refs, recipe
	s.terms()
	s.admitted(l.GetVersion())
}

// debian: a package of Debian's own is installed and run. Its files come through Debian's
// signed index, as every node saw for itself.
func (s *stage) debian() {
	l := s.lease()
	const name, program = "hello", "/usr/bin/hello"
	shown, err := output(s.ctx, "apt-cache", "show", "--no-all-versions", name)
	s.check(err)
	m := regexp.MustCompile(`(?m)^Version: (\S+)$`).FindStringSubmatch(shown)
	if m == nil {
		s.Fatalf("apt-cache shows no version of %s: %s", name, shown)
	}
	parts := s.endorse(name, listed(name, m[1]), "--executable")
	s.terms()
	for _, part := range parts {
		content, err := os.ReadFile(part)
		s.check(err)
		if bytes.HasPrefix(content, []byte("!<arch>\n")) {
			s.check(s.guest.Write(s.ctx, "/var/tmp/debian.deb", "644", content))
		}
	}
	out := s.run("set -e\napt-get -q -y install /var/tmp/debian.deb\n" + program + "\ngrep -cw " + program + " /sys/kernel/security/ima/ascii_runtime_measurements")
	if !strings.HasSuffix(strings.TrimSpace(out), "\n1") {
		s.Errorf("%s was not measured once: %s", program, out)
	}
	s.stays(l)
}

const script = "#!/bin/sh\nexit 0\n"

// scriptRead: what an interpreter reads is not measured.
func (s *stage) scriptRead() {
	s.check(s.guest.Write(s.ctx, "/root/read.sh", "755", []byte(script)))
	l := s.lease()
	out := s.run("set -e\nsh /root/read.sh\ngrep -c read.sh /sys/kernel/security/ima/ascii_runtime_measurements || true")
	if strings.TrimSpace(out) != "0" {
		s.Errorf("the log names the script %s times", out)
	}
	s.stays(l)
}

// altered: the package's program is changed and run. Its package installed again and a
// reboot make the host a good one; then the old version is not wanted any more.
func (s *stage) altered() {
	s.run("set -e\nprintf x >> /usr/bin/bed-tool\nbed-tool || [ $? = 2 ]")
	s.suspended(`file-altered: /usr/bin/bed-tool: want .*\S+ of package bed-tool 2\.0`)
	s.run("apt-get -q -y reinstall bed-tool")
	s.reboot()
	s.run("bed-tool || [ $? = 2 ]")
	l := s.lease()
	s.refs, s.recipe = []string{guestRefs, "v2.refs"}, []string{"none", "v2.recipe"}
	s.terms()
	s.stays(l)
}

// scriptRun: the same script, executed as a file. Members may accept it in a code set.
func (s *stage) scriptRun() {
	s.run("/root/read.sh")
	s.suspended(`file-unknown: /root/read\.sh: want a file of a package or code set`)
	s.accept("/root/read.sh", []byte(script))
}

func (s *stage) unknown() {
	s.check(s.guest.Write(s.ctx, "/dev/shm/stranger", "755", stranger(0)))
	s.run("/dev/shm/stranger")
	s.suspended(`file-unknown: /dev/shm/stranger: want a file of a package or code set`)
	s.accept("/dev/shm/stranger", stranger(0))
}

// accept has the nodes take up a code set that names the file, and waits until the host
// is admitted anew.
func (s *stage) accept(path string, content []byte) {
	before := s.lease().GetVersion()
	name := fmt.Sprintf("code-%d", len(s.codes))
	c, err := refval.NewCodeSet(name, []refval.Code{{Digest: keystead.Sum(content), Path: path, Version: "1"}}, nil)
	s.check(err)
	s.check(os.WriteFile(s.domain.at(name+".txt"), []byte(c.Text()), 0o644))
	signed, err := s.domain.Do(s.ctx, "codeset", "sign", "--key", MemberKey, name+".txt")
	s.check(err)
	s.check(os.WriteFile(s.domain.at(name), []byte(signed), 0o644))
	s.codes = append(s.codes, name)
	s.terms()
	s.admitted(before)
}

// refused boots, and returns why the domain does not admit the host so.
func (s *stage) refused(o Boot) *apiv1.Refusal {
	s.Helper()
	before := s.lease().GetVersion()
	s.check(s.guest.Reboot(s.ctx, o))
	out := s.run("keystead agent status --json --wait refused --timeout 2m")
	status := &apiv1.AgentStatusResponse{}
	s.check(protojson.Unmarshal([]byte(out), status))
	if l := s.lease(); l.GetVersion() != before || l.GetSuspended() == nil {
		s.Errorf("the host has lease %v", l)
	}
	return status.GetProblem()
}

// otherBoot: the same kernel with another command line.
func (s *stage) otherBoot() {
	f := s.finding(s.refused(Boot{Append: "quiet"}), "boot-unaccepted", `^command line \(PCR 9, event \d+, EV_EVENT_TAG\)$`, "ima_hash=sha256\"")
	if !strings.Contains(f.GetGot(), "ima_hash=sha256 quiet") {
		s.Errorf("the finding does not name the command line: %v", f)
	}
}

// otherKernel: another of Debian's signed kernels is refused, until members sign a code
// set that names it by the package which ships it; then the host is admitted on either.
func (s *stage) otherKernel() {
	before := s.lease().GetVersion()
	p := s.refused(Boot{Other: true})
	measured, err := efiProgram(s.bed.Other.Kernel)
	s.check(err)
	f := s.finding(p, "boot-unaccepted", `kernel \(PCR 4, event \d+, EV_EFI_BOOT_SERVICES_APPLICATION\)`, "")
	if !strings.Contains(f.GetGot(), measured.String()) {
		s.Errorf("the finding does not name the kernel %v: %v", measured, f)
	}
	s.acceptOther()
	before = s.admitted(before).GetVersion()
	s.check(s.guest.Reboot(s.ctx, Boot{}))
	s.admitted(before)
}

// acceptOther has the domain endorse the EFI programs of the other kernel's package, of
// which Debian's signed index has the digest, and take up a code set that names the package.
func (s *stage) acceptOther() {
	status, err := os.ReadFile(s.bed.Status)
	s.check(err)
	var pkg string
	for entry := range strings.SplitSeq(string(status), "\n\n") {
		name, _, _ := strings.Cut(strings.TrimPrefix(strings.TrimSpace(entry), "Package: "), "\n")
		if regexp.MustCompile(`^linux-image-\d+\.\d+\.\d.*` + otherFlavour + "$").MatchString(name) {
			pkg = name
			s.endorse("kernel", strings.TrimSpace(entry)+"\n", "--efi")
		}
	}
	text, err := s.domain.Do(s.ctx, "codeset", "build", "--name", "kernels", "--boot", "other", "--kernel-package", pkg, "--initrd", s.bed.Other.Initrd,
		"--cmdline", CommandLine, "--guarantee", string(refval.GuaranteeIMAPolicy), "--guarantee", string(refval.GuaranteePtraceScope3))
	s.check(err)
	s.check(os.WriteFile(s.domain.at("kernels.txt"), []byte(text), 0o644))
	signed, err := s.domain.Do(s.ctx, "codeset", "sign", "--key", MemberKey, "kernels.txt")
	s.check(err)
	s.check(os.WriteFile(s.domain.at("kernels"), []byte(signed), 0o644))
	s.codes = append(s.codes, "kernels")
	s.terms()
}
