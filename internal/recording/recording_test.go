package recording_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"io/fs"
	"slices"
	"strings"
	"testing"
	"testing/fstest"
	"unicode/utf16"

	"github.com/keystead/keystead"
	"github.com/keystead/keystead/collect"
	"github.com/keystead/keystead/evidence"
	"github.com/keystead/keystead/internal/recording"
	"github.com/keystead/keystead/internal/swtpm"
)

func load(t *testing.T) *recording.Recording {
	t.Helper()
	r, err := recording.Load(recording.Committed())
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// TestCommitted holds the recording to what it was made to show.
func TestCommitted(t *testing.T) {
	r := load(t)
	if r.PtraceScope != 3 || r.Lockdown != "confidentiality" || !strings.Contains(r.CommandLine, "lockdown=confidentiality") {
		t.Errorf("the guest was not locked down: ptrace_scope %d, lockdown %s, command line %s", r.PtraceScope, r.Lockdown, r.CommandLine)
	}
	var names []string
	for i, p := range r.Phases {
		names = append(names, p.Name)
		entries, size, err := recording.FindMark(r.EventLog, r.Phases[len(r.Phases)-1].IMALog, p.PCRs)
		if err != nil || entries != p.Entries || size != len(p.IMALog) {
			t.Errorf("phase %s: the registers are reached after %d entries and %d bytes (%v), the manifest says %d and %d", p.Name, entries, size, err, p.Entries, p.Bytes)
		}
		if i > 0 && (p.Entries <= r.Phases[i-1].Entries || !bytes.HasPrefix(p.IMALog, r.Phases[i-1].IMALog)) {
			t.Errorf("phase %s does not go on from the one before it", p.Name)
		}
	}
	if want := []string{"packaged", "altered", "unknown"}; !slices.Equal(names, want) {
		t.Fatalf("phases %v, want %v", names, want)
	}
	ran := func(phase int, path string) int {
		return bytes.Count(r.Phases[phase].IMALog, append([]byte(path), 0))
	}
	if ran(0, "/usr/bin/whoami") != 1 || ran(1, "/usr/bin/whoami") != 2 {
		t.Errorf("whoami was measured %d times in phase packaged, %d by the end of altered: want 1 and 2", ran(0, "/usr/bin/whoami"), ran(1, "/usr/bin/whoami"))
	}
	if ran(1, "/dev/shm/stranger") != 0 || ran(2, "/dev/shm/stranger") != 1 {
		t.Error("the stranger was not measured exactly once, in phase unknown")
	}
	if n := bytes.Count(r.Status, []byte("Status: install ok installed\n")); n != r.Packages {
		t.Errorf("%d installed packages, the manifest says %d", n, r.Packages)
	}
	if len(r.Releases) == 0 {
		t.Error("no InRelease files")
	}
}

// TestCodeSet compares the digests that were computed from the files which the
// guest booted with what its firmware and kernel measured.
func TestCodeSet(t *testing.T) {
	r := load(t)
	want := map[string][]byte{}
	for _, field := range strings.Fields(r.CodeSet) {
		if key, value, ok := strings.Cut(field, "="); ok && (key == "kernel" || key == "initrd") {
			d, err := keystead.ParseDigest(value)
			if err != nil {
				t.Fatal(err)
			}
			want[key] = d[:]
		}
	}
	_, quoted, _ := strings.Cut(r.CodeSet, "cmdline=")
	var commandLine string
	if err := json.Unmarshal([]byte(quoted), &commandLine); err != nil {
		t.Fatal(err)
	}
	if commandLine != r.CommandLine {
		t.Errorf("the code set's command line is %q, the kernel's was %q", commandLine, r.CommandLine)
	}
	var wide []byte
	for _, u := range append(utf16.Encode([]rune(commandLine)), 0) {
		wide = append(wide, byte(u), byte(u>>8))
	}
	d := keystead.Sum(wide)
	want["command line"] = d[:]
	measured := map[int][][]byte{}
	err := r.Replay(0, func(pcr int, digests map[evidence.Bank][]byte) error {
		measured[pcr] = append(measured[pcr], digests[evidence.SHA256])
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	for key, pcr := range map[string]int{"kernel": 4, "initrd": 9, "command line": 9} {
		if !slices.ContainsFunc(measured[pcr], func(b []byte) bool { return bytes.Equal(b, want[key]) }) {
			t.Errorf("PCR %d was not extended with the %s's digest %x", pcr, key, want[key])
		}
	}
}

// TestReplay replays phase after phase into a software TPM and compares every
// register of both banks with what the recorded machine's TPM held.
func TestReplay(t *testing.T) {
	r := load(t)
	ca, err := swtpm.NewCA(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	soft, err := ca.Start(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer soft.Stop()
	tpm, err := collect.OpenTPM(soft.Socket)
	if err != nil {
		t.Fatal(err)
	}
	defer tpm.Close()
	all := make([]int, evidence.NumPCRs)
	for i := range all {
		all[i] = i
	}
	for n, phase := range r.Phases {
		err := r.Replay(n, func(pcr int, digests map[evidence.Bank][]byte) error {
			return tpm.Extend(t.Context(), pcr, digests)
		})
		if err != nil {
			t.Fatal(err)
		}
		for _, want := range phase.PCRs {
			got, err := tpm.ReadPCRs(t.Context(), want.Bank, all)
			if err != nil {
				t.Fatal(err)
			}
			for i := range all {
				if !bytes.Equal(got.Value[i], want.Value[i]) {
					t.Errorf("phase %s, %v register %d: %x after the replay, recorded %x", phase.Name, want.Bank, i, got.Value[i], want.Value[i])
				}
			}
		}
	}
}

func TestLoadRefuses(t *testing.T) {
	for name, tc := range map[string]struct {
		file, old, new, want string
	}{
		"file missing":     {recording.FileEventLog, "", "", "event-log.bin is missing"},
		"other format":     {recording.FileManifest, recording.Format, "keystead-recording/2", "want \"keystead-recording/1\""},
		"unknown field":    {recording.FileManifest, `"recorded"`, `"recorder"`, "unknown field"},
		"mark past end":    {recording.FileManifest, `"ima_bytes": `, `"ima_bytes": 1`, "ends at byte"},
		"phase unmeasured": {recording.FilePCRs, "altered ", "ordinary ", "no values of phase altered"},
		"register 24":      {recording.FilePCRs, "sha256 23", "sha256 24", "is not the value of a register"},
		"short value":      {recording.FilePCRs, "sha384 0 ", "sha384 0 00", "is not the value of a register"},
	} {
		t.Run(name, func(t *testing.T) {
			files := copyOf(t, recording.Committed())
			if f := files[tc.file]; tc.old == "" {
				delete(files, tc.file)
			} else {
				f.Data = bytes.ReplaceAll(f.Data, []byte(tc.old), []byte(tc.new))
			}
			if _, err := recording.Load(files); err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("got %v, want an error with %q", err, tc.want)
			}
		})
	}
}

func TestFindMarkRefuses(t *testing.T) {
	r := load(t)
	last := r.Phases[len(r.Phases)-1]
	flipped := bytes.Clone(last.IMALog)
	flipped[len(flipped)-3] ^= 1
	for name, tc := range map[string]struct {
		events, ima []byte
		want        string
	}{
		"log altered":   {r.EventLog, flipped, "register 10 is"},
		"log cut short": {r.EventLog, r.Phases[0].IMALog, "register 10 is"},
		"no boot":       {r.EventLog[:len(r.EventLog)-80], last.IMALog, "tcg2-event-log: offset"},
		"half an entry": {r.EventLog, last.IMALog[:len(last.IMALog)-1], "template data"},
	} {
		t.Run(name, func(t *testing.T) {
			_, _, err := recording.FindMark(tc.events, tc.ima, last.PCRs)
			if err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("got %v, want an error with %q", err, tc.want)
			}
		})
	}
}

func FuzzFindMark(f *testing.F) {
	r, err := recording.Load(recording.Committed())
	if err != nil {
		f.Fatal(err)
	}
	f.Add(r.EventLog, r.Phases[0].IMALog)
	f.Fuzz(func(t *testing.T, events, ima []byte) {
		entries, size, err := recording.FindMark(events, ima, r.Phases[0].PCRs)
		if size > len(ima) || err != nil && (entries != 0 || size != 0) {
			t.Errorf("%d entries in %d bytes of %d, %v", entries, size, len(ima), err)
		}
		if err != nil && strings.Contains(err.Error(), "offset") && !errors.As(err, new(*keystead.FormatError)) {
			t.Errorf("%v is no FormatError", err)
		}
	})
}

func FuzzPCRs(f *testing.F) {
	b, err := fs.ReadFile(recording.Committed(), recording.FilePCRs)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Fuzz(func(t *testing.T, text []byte) {
		phases, err := recording.ParsePCRs(text)
		for name, banks := range phases {
			again, err := recording.ParsePCRs(recording.FormatPCRs(name, banks))
			if err != nil || len(again[name]) != len(banks) {
				t.Errorf("%d banks of phase %q become %d (%v)", len(banks), name, len(again[name]), err)
			}
		}
		if err != nil && phases != nil {
			t.Error("values beside an error")
		}
	})
}

func copyOf(t *testing.T, files fs.FS) fstest.MapFS {
	out := fstest.MapFS{}
	err := fs.WalkDir(files, ".", func(p string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		b, err := fs.ReadFile(files, p)
		out[p] = &fstest.MapFile{Data: b}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}
