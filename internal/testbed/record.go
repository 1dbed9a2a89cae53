package testbed

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/keystead/keystead"
	"github.com/keystead/keystead/evidence/eventlog"
	"github.com/keystead/keystead/evidence/ima"
	"github.com/keystead/keystead/internal/recording"
	"github.com/keystead/keystead/internal/swtpm"
	"github.com/keystead/keystead/refval"
)

// Record boots the guest, takes it through the phases, and writes a recording to
// dir, which it replaces. It fails unless the logs lead to the registers, every
// program that ran in the first phase is named by a package or the code set, and
// the later phases add what they are meant to add.
func Record(ctx context.Context, b *Bed, dir string) error {
	now := time.Now().UTC().Truncate(time.Second)
	captures, err := b.capture(ctx)
	if err != nil {
		return fmt.Errorf("testbed: %w", err)
	}
	raw, err := os.ReadFile(b.References)
	if err != nil {
		return fmt.Errorf("testbed: %w", err)
	}
	set, err := refval.Parse(raw)
	if err != nil {
		return fmt.Errorf("testbed: %s: %w", b.References, err)
	}
	code, err := b.CodeSet(nil)
	if err != nil {
		return fmt.Errorf("testbed: code set: %w", err)
	}
	files, err := recordingFiles(captures, set, code)
	if err == nil {
		err = b.addReleases(files, set)
	}
	if err == nil {
		err = addManifest(ctx, files, now, captures, set, code)
	}
	if err == nil {
		err = write(dir, files)
	}
	if err != nil {
		return fmt.Errorf("testbed: recording: %w", err)
	}
	total := 0
	for _, content := range files {
		total += len(content)
	}
	b.progress("recording: %d files, %d KiB in %s", len(files), total>>10, dir)
	return nil
}

// capture takes a guest through the phases.
func (b *Bed) capture(ctx context.Context) (captures []*Capture, err error) {
	dir, err := os.MkdirTemp("", "keystead-testbed-ca-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	ca, err := swtpm.NewCA(dir)
	if err != nil {
		return nil, err
	}
	g, err := b.Start(ctx, ca, nil)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, g.Close()) }()
	if err := g.Write(ctx, strangerPath, "600", stranger(0)); err != nil {
		return nil, err
	}
	for _, p := range phases() {
		if _, err := g.Run(ctx, p.script); err != nil {
			return nil, fmt.Errorf("phase %s: %w", p.name, err)
		}
		c, err := g.Capture(ctx)
		if err != nil {
			return nil, fmt.Errorf("phase %s: %w", p.name, err)
		}
		captures = append(captures, c)
	}
	return captures, nil
}

func recordingFiles(captures []*Capture, set *refval.Set, code *refval.CodeSet) (map[string][]byte, error) {
	files := map[string][]byte{
		recording.FileEventLog:  captures[0].EventLog,
		recording.FileStatus:    trimStatus(captures[0].Status),
		recording.FileCodeSet:   []byte(code.Text()),
		recording.FileReference: set.Bytes(),
	}
	for i, p := range phases() {
		files[recording.FilePCRs] = append(files[recording.FilePCRs], recording.FormatPCRs(p.name, captures[i].PCRs)...)
	}
	return files, nil
}

// addReleases adds the InRelease files by which the guest's packages came. They
// must be those that the reference set was built from.
func (b *Bed) addReleases(files map[string][]byte, set *refval.Set) error {
	names, err := filepath.Glob(filepath.Join(b.Releases, "*_InRelease"))
	if err != nil {
		return err
	}
	for _, name := range names {
		content, err := os.ReadFile(name)
		if err != nil {
			return err
		}
		if !slices.ContainsFunc(set.Header().Repositories, func(r refval.Repository) bool { return r.Release == keystead.Sum(content) }) {
			return fmt.Errorf("the repository of %s has changed since the guest was built: build it afresh", filepath.Base(name))
		}
		_, repository, _ := strings.Cut(strings.TrimSuffix(filepath.Base(name), "_InRelease"), "_dists_")
		files[recording.DirReleases+"/"+repository] = content
	}
	return nil
}

// addManifest proves each phase's logs by its registers, and adds the IMA log up to
// the last phase's end and the manifest with the marks.
func addManifest(ctx context.Context, files map[string][]byte, now time.Time, captures []*Capture, set *refval.Set, code *refval.CodeSet) error {
	result := captures[0]
	m := recording.Manifest{
		Format: recording.Format, Recorded: now, Kernel: result.Kernel, CommandLine: result.CommandLine,
		PtraceScope: result.PtraceScope, Lockdown: result.Lockdown,
		Packages: len(set.Header().Packages), Tools: tools(ctx),
	}
	log := captures[len(captures)-1].IMALog
	var unnamed []string
	for i, p := range phases() {
		pcrs := captures[i].PCRs
		if _, err := eventlog.Open(result.EventLog, pcrs); err != nil {
			return fmt.Errorf("phase %s: %w", p.name, err)
		}
		list, err := ima.Open(log, pcrs, ima.Register)
		if err != nil {
			return fmt.Errorf("phase %s: %w", p.name, err)
		}
		if err := list.CheckBootAggregate(pcrs); err != nil {
			return fmt.Errorf("phase %s: %w", p.name, err)
		}
		unnamed = append(unnamed, p.unnamed...)
		if got := namedByNone(list, set, code); !slices.Equal(got, unnamed) {
			return fmt.Errorf("phase %s: no package and no code set names %q, want %q", p.name, got, unnamed)
		}
		size, err := recording.PrefixSize(log, list.Len())
		if err != nil {
			return err
		}
		m.Phases = append(m.Phases, recording.Mark{Name: p.name, About: p.about, Entries: list.Len(), Bytes: size})
		files[recording.FileIMALog] = log[:size]
	}
	manifest, err := json.MarshalIndent(m, "", "  ")
	files[recording.FileManifest] = append(manifest, '\n')
	return err
}

// namedByNone returns the paths of entries, after boot_aggregate, whose digest is
// in neither set.
func namedByNone(list *ima.List, set *refval.Set, code *refval.CodeSet) (paths []string) {
	for number, e := range list.All() {
		var d keystead.Digest
		if copy(d[:], e.FileDigest) == len(e.FileDigest) {
			_, packaged := set.Lookup(d)
			_, governed := code.Lookup(d)
			if packaged || governed || number == 1 {
				continue
			}
		}
		paths = append(paths, e.Path.String())
	}
	return paths
}

var keptField = regexp.MustCompile(`^(Package|Status|Architecture|Source|Version): `)

// trimStatus keeps of a dpkg status what names packages and versions.
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

// write replaces dir by the files.
func write(dir string, files map[string][]byte) error {
	if err := os.RemoveAll(dir); err != nil {
		return err
	}
	for name, content := range files {
		p := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(p, content, 0o644); err != nil {
			return err
		}
	}
	return nil
}
