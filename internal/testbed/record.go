package testbed

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"time"

	"github.com/keystead/keystead/internal/recording"
)

// BuildReference builds the reference set of the packages that a dpkg status
// lists, with the InRelease files (by repository) that the packages came by.
type BuildReference func(ctx context.Context, status []byte, releases map[string][]byte) ([]byte, error)

// phases are what a recording shows: a sound machine, then two unsound ones.
func phases() []recordedPhase {
	return []recordedPhase{
		{"packaged software only", Step{Name: "packaged", Script: `set -e
[ "$(whoami)" = root ]
id; uname -r; ls -l /usr/bin/whoami; dpkg --version; apt-get --version
modprobe wireguard; grep wireguard /proc/modules
`}},
		{"one byte of coreutils' whoami changed, and whoami run", Step{Name: "altered", Script: `set -e
cp -p /usr/bin/whoami /run/whoami
LC_ALL=C sed -i 's/GNU coreutils/GNU coreutilz/' /usr/bin/whoami
[ "$(sha256sum < /usr/bin/whoami)" != "$(sha256sum < /run/whoami)" ]
[ "$(stat -c %s /usr/bin/whoami)" = "$(stat -c %s /run/whoami)" ]
[ "$(whoami)" = root ]
`}},
		{"a program of no package run from tmpfs", Step{Name: "unknown", Files: map[string][]byte{"stranger": stranger()}, Script: `set -e
cp stranger /dev/shm/stranger
chmod +x /dev/shm/stranger
/dev/shm/stranger
`}},
	}
}

type recordedPhase struct {
	about string
	step  Step
}

// Record boots the guest, takes it through the phases, and writes a recording to
// dir, which it replaces. It fails if the logs do not lead to the registers.
func Record(ctx context.Context, b *Bed, dir string, build BuildReference) error {
	var steps []Step
	for _, p := range phases() {
		steps = append(steps, p.step)
	}
	now := time.Now().UTC().Truncate(time.Second)
	result, err := b.Boot(ctx, steps)
	if err != nil {
		return err
	}
	files, err := b.files(ctx, now, result)
	if err != nil {
		return fmt.Errorf("testbed: %w", err)
	}
	if build != nil {
		start := time.Now()
		if files[recording.FileReference], err = build(ctx, result.Status, releases(files)); err != nil {
			return fmt.Errorf("testbed: reference set: %w", err)
		}
		b.progress("recording: reference set built in %.1f s", time.Since(start).Seconds())
	}
	if err := os.RemoveAll(dir); err != nil {
		return fmt.Errorf("testbed: %w", err)
	}
	total := 0
	for name, content := range files {
		p := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
			return fmt.Errorf("testbed: %w", err)
		}
		if err := os.WriteFile(p, content, 0o644); err != nil {
			return fmt.Errorf("testbed: %w", err)
		}
		total += len(content)
	}
	b.progress("recording: %d files, %d KiB in %s", len(files), total>>10, dir)
	return nil
}

// files gives the recording's files by name, but for the reference set.
func (b *Bed) files(ctx context.Context, now time.Time, result *Result) (map[string][]byte, error) {
	boot, err := b.codeSet()
	if err != nil {
		return nil, err
	}
	status := trimStatus(result.Status)
	m := recording.Manifest{
		Format: recording.Format, Recorded: now, Kernel: result.Kernel, CommandLine: result.CommandLine,
		PtraceScope: result.PtraceScope, Lockdown: result.Lockdown,
		Packages: bytes.Count(status, []byte("Package: ")),
		Tools:    tools(ctx),
	}
	var pcrs []byte
	log := result.Steps[len(result.Steps)-1].IMALog
	for i, p := range phases() {
		s := result.Steps[i]
		if s.Status != 0 {
			return nil, fmt.Errorf("phase %s ended with status %d:\n%s", s.Name, s.Status, s.Output)
		}
		entries, size, err := recording.FindMark(result.EventLog, log, s.PCRs)
		if err != nil {
			return nil, fmt.Errorf("phase %s: %w", s.Name, err)
		}
		m.Phases = append(m.Phases, recording.Mark{Name: s.Name, About: p.about, Entries: entries, Bytes: size})
		pcrs = append(pcrs, recording.FormatPCRs(s.Name, s.PCRs)...)
	}
	manifest, err := json.MarshalIndent(m, "", "  ")
	if err != nil {
		return nil, err
	}
	files := map[string][]byte{
		recording.FileManifest: append(manifest, '\n'),
		recording.FileEventLog: result.EventLog,
		recording.FileIMALog:   log[:m.Phases[len(m.Phases)-1].Bytes],
		recording.FilePCRs:     pcrs,
		recording.FileStatus:   status,
		recording.FileCodeSet:  boot,
	}
	names, err := filepath.Glob(filepath.Join(b.Releases, "*_InRelease"))
	for _, name := range names {
		_, repository, _ := strings.Cut(strings.TrimSuffix(filepath.Base(name), "_InRelease"), "_dists_")
		if files[recording.DirReleases+"/"+repository], err = os.ReadFile(name); err != nil {
			return nil, err
		}
	}
	return files, err
}

func releases(files map[string][]byte) map[string][]byte {
	out := map[string][]byte{}
	for name, content := range files {
		if repository, ok := strings.CutPrefix(name, recording.DirReleases+"/"); ok {
			out[repository] = content
		}
	}
	return out
}

var keptField = regexp.MustCompile(`^(Package|Status|Architecture|Source|Version): `)

// trimStatus keeps of a dpkg status what names installed packages and versions.
func trimStatus(status []byte) []byte {
	var out bytes.Buffer
	for line := range bytes.Lines(status) {
		if keptField.Match(line) || len(bytes.TrimSpace(line)) == 0 {
			out.Write(line)
		}
	}
	return out.Bytes()
}

// tools names the versions of what stood in for hardware and firmware.
func tools(ctx context.Context) (lines []string) {
	for _, p := range []string{"qemu-system-x86", "ovmf", "swtpm", "mmdebstrap"} {
		if v, err := output(ctx, "dpkg-query", "-W", "-f", "${Package} ${Version}", p); err == nil {
			lines = append(lines, v)
		}
	}
	return lines
}
