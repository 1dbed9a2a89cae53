package appraise

import (
	"cmp"
	"slices"
	"time"

	"github.com/keystead/keystead"
	"github.com/keystead/keystead/evidence"
	"github.com/keystead/keystead/evidence/eventlog"
	"github.com/keystead/keystead/evidence/ima"
)

// A State is what appraisal keeps of a host whose evidence it allowed, so that the next
// bundle need only bring what its logs have gained. It is minted by Follow alone, of
// bytes that a verified quote covers, and never changes. A verdict that goes on from one
// is, byte for byte, that of the whole logs: where a State might lead elsewhere, because
// anything that it rests on is another, it is not used and the whole is asked for.
type State struct {
	key       string // TPM name of the attestation key
	context   keystead.Digest
	registers keystead.Digest
	reference evidence.Reference
	list      ima.State
	boot      evidence.BootClaims // before kernel adds to them
	kernel    eventlog.Kernel
	kernelErr error
	software  evidence.SoftwareClaims
	packages  evidence.PackageClaims
	refs      *references // as they stood before the first file; shared among hosts
	seen      []seenPackage
	time      int64 // of judgement, Unix nanoseconds
}

// Reference is what a continuation of this state's logs refers to; zero for none.
func (s *State) Reference() evidence.Reference {
	if s == nil {
		return evidence.Reference{}
	}
	return s.reference
}

// Size is how much memory the state takes, about, in bytes, without what hosts share.
func (s *State) Size() int {
	size := 2048 + len(s.key) + 8*cap(s.seen)
	for _, list := range [][]string{s.boot.Loaded, s.boot.Packages, s.boot.Keys, s.boot.Authorities, s.software.Packages, s.packages.Unlisted, s.packages.Unproven, s.packages.Outdated} {
		for _, text := range list {
			size += 16 + len(text)
		}
	}
	return size + (len(s.kernel.Before)+len(s.kernel.Loaders))*49 // keystead.Measured
}

// Shared returns what the state may have in common with those of other hosts, which is
// the same pointer then, and how much memory that takes, likewise.
func (s *State) Shared() (common any, size int) {
	if s == nil || s.refs == nil {
		return nil, 0
	}
	return s.refs, s.refs.size
}

// context names all that the verdict on a file rests on, beside the file.
func (a *appraisal) context() keystead.Digest {
	var parts [][]byte
	for _, s := range a.in.References {
		d := s.Digest()
		parts = append(parts, d[:])
	}
	parts = append(parts, nil)
	for _, c := range a.in.CodeSets {
		d := c.Digest()
		parts = append(parts, d[:])
	}
	d := a.in.Policy.Digest()
	parts = append(parts, nil, d[:])
	for _, e := range a.in.ended() {
		parts = append(parts, e.Set[:], e.Until.AppendFormat(nil, time.RFC3339Nano))
	}
	return nameOf(parts)
}

// registers names the quoted registers that the logs of a boot rest on: all but IMA's,
// which grows, and those that no log is judged by.
func registers(covered []evidence.PCRs) keystead.Digest {
	parts := make([][]byte, 0, 64)
	for _, p := range covered {
		parts = append(parts, []byte{byte(p.Bank >> 8), byte(p.Bank)})
		for i, v := range p.Value {
			if v != nil && i != ima.Register && eventlog.Judges(i) {
				parts = append(parts, []byte{byte(i)}, v)
			}
		}
	}
	return nameOf(parts)
}

// state mints what the next bundle can go on from; nil where there is nothing to, and
// where a TEE spoke, which rests on collateral and its own log, or kexec replaced the
// kernel: such evidence is whole.
func (a *appraisal) state() *State {
	if !a.sound() || !a.established || a.files == nil || a.refs == nil || a.refs.early || a.replaced || a.parts.TEE != nil {
		return nil
	}
	list, ok := a.files.State()
	if !ok {
		return nil
	}
	s := &State{key: string(a.in.Key.Name), list: list,
		boot: a.booted, kernel: a.measured, kernelErr: a.measuredErr, software: a.claims.Software, packages: a.claims.Packages,
		seen: a.refs.seenList(), time: a.in.Time.UnixNano()}
	s.kernel.Text = nil // no verdict needs it
	s.reference = evidence.Reference{IMALog: list.Digest(), Bytes: list.Bytes(), Entries: list.Entries()}
	if p := a.prior; p != nil { // whose context and registers are these
		s.context, s.registers = p.context, p.registers
		s.reference.EventLog, s.reference.Packages, s.refs = p.reference.EventLog, p.reference.Packages, p.refs
		return s
	}
	s.context, s.registers = a.context(), registers(a.covered)
	s.reference.EventLog = keystead.Sum(a.parts.EventLog)
	if a.parts.Packages != nil {
		s.reference.Packages = keystead.Sum(a.parts.Packages.Data)
	}
	s.refs = a.in.Memory.share(a.refs.fresh(), s.context)
	return s
}

// resume opens the logs of a continuation. All that might make its verdict another than
// that of the whole logs ends in the one finding log-unknown, which asks for them.
func (a *appraisal) resume(from evidence.Reference) {
	unknown := func(want, got string) {
		a.find(keystead.Finding{Reason: keystead.ReasonLogUnknown, Where: "continuation", Want: want + ", or the whole logs", Got: got})
	}
	s := a.in.Prior
	switch {
	case a.parts.TEE != nil:
		unknown("a continuation of a TPM's evidence alone", "one with evidence of a TEE")
		return
	case s == nil || s.list.IsZero():
		unknown("what this verifier has of the host from before", "a continuation, and nothing from before")
		return
	case s.key != string(a.in.Key.Name) || s.reference != from:
		unknown("a continuation of what this verifier replayed", "one of other logs or another key")
		return
	case s.context != a.context():
		unknown("a continuation under the reference values, code sets and policy of before", "one under others")
		return
	case s.time > a.in.Time.UnixNano():
		unknown("a continuation of what was judged before", "one of what was judged as of later")
		return
	case s.registers != registers(a.covered):
		unknown("the registers of the boot that was replayed", "others")
		return
	}
	list, err := ima.Resume(s.list, a.parts.IMALog, a.covered)
	if err != nil {
		unknown("entries that lead from what was replayed to the quote", err.Error())
		return
	}
	a.prior, a.files = s, list
	a.booted, a.measured, a.measuredErr = s.boot, s.kernel, s.kernelErr
	a.claims.Boot = s.boot // nothing is appended to its lists
}

// seenPackage is a set's number and a package's in it.
type seenPackage struct{ set, number uint32 }

func inOrder(a, b seenPackage) int {
	return cmp.Or(cmp.Compare(a.set, b.set), cmp.Compare(a.number, b.number))
}

// resumed returns references for what follows, of which so much was seen before.
func (r *references) resumed(seen []seenPackage) *references {
	out := *r
	out.before = seen
	return &out
}

// fresh returns the references as they stood before the first file.
func (r *references) fresh() *references {
	out := *r
	out.seen, out.before, out.later = nil, nil, nil
	return &out
}

// seenBefore reports whether something of a package ran before the continuation.
func (r *references) seenBefore(p seenPackage) bool {
	_, ok := slices.BinarySearchFunc(r.before, p, inOrder)
	return ok
}

// seenList lists the packages of which something ran, in order.
func (r *references) seenList() []seenPackage {
	if r.seen == nil {
		if len(r.later) == 0 {
			return r.before
		}
		out := append(slices.Clone(r.before), r.later...)
		slices.SortFunc(out, inOrder)
		return slices.Compact(out)
	}
	var out []seenPackage
	for n := range r.seen {
		for i, seen := range r.seen[n] {
			if seen {
				out = append(out, seenPackage{uint32(n), uint32(i)})
			}
		}
	}
	return slices.Clip(out)
}
