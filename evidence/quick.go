package evidence

// A quickReader reads the CBOR that every renewal has (RFC 8949, 3): items of definite
// length, map keys ascending, byte strings aliasing the input. What is of another form
// it gives up on, and the CBOR library reads or refuses that.
type quickReader struct {
	rest []byte
	odd  bool // gave up
}

// head reads the head of an item of that major type and returns its argument.
func (r *quickReader) head(major byte) int {
	if r.odd || len(r.rest) == 0 || r.rest[0]>>5 != major {
		r.odd = true
		return 0
	}
	arg := uint64(r.rest[0] & 0x1F)
	r.rest = r.rest[1:]
	if arg < 24 {
		return int(arg)
	}
	n := 1 << (arg - 24) // bytes that follow: 1, 2, 4 or 8
	if arg > 27 || len(r.rest) < n {
		r.odd = true
		return 0
	}
	arg = 0
	for _, c := range r.rest[:n] {
		arg = arg<<8 | uint64(c)
	}
	if r.rest = r.rest[n:]; arg > MaxBundle { // nothing here is larger
		r.odd = true
		return 0
	}
	return int(arg)
}

// bytes reads a byte string.
func (r *quickReader) bytes() []byte { return r.string(2) }

// string reads a string of bytes (2) or of text (3), of which it does not look whether it
// is UTF-8.
func (r *quickReader) string(major byte) []byte {
	n := r.head(major)
	if r.odd || n > len(r.rest) {
		r.odd = true
		return nil
	}
	b := r.rest[:n:n]
	r.rest = r.rest[n:]
	return b
}

// few reads the number of elements of an array (4) or pairs of a map (5).
func (r *quickReader) few(major byte) int {
	n := r.head(major)
	if n > NumPCRs { // more than any TPM's item has
		r.odd = true
		return 0
	}
	return n
}

// keys reads a map's, and has each read its value: of small numbers, ascending.
func (r *quickReader) keys(value func(key int)) {
	last := -1
	for range r.few(5) {
		k := r.head(0)
		if k <= last {
			r.odd = true
		}
		if last = k; r.odd {
			return
		}
		value(k)
	}
}

// quick reads an item's content without copying; false where that is not for it.
func quick(content []byte, into any) bool {
	switch into := into.(type) {
	case *[]byte:
		b, ok := quickBytes(content)
		if ok {
			*into = b
		}
		return ok
	case *TPM:
		t, ok := quickTPM(content)
		if ok {
			*into = *t
		}
		return ok
	}
	return false
}

// quickTPM reads the item of a TPM; false where it gave up.
func quickTPM(content []byte) (*TPM, bool) {
	r, t := &quickReader{rest: content}, new(TPM)
	r.keys(func(key int) {
		switch key {
		case 1:
			t.AKPublic = r.bytes()
		case 2:
			t.Attest = r.bytes()
		case 3:
			t.Signature = r.bytes()
		case 4:
			t.PCRs = make([]Values, r.few(4))
			for i := range t.PCRs {
				t.PCRs[i].quick(r)
			}
		case 5:
			t.EKPublic = r.bytes()
		case 6:
			t.EKCertificate = make([][]byte, r.few(4))
			for i := range t.EKCertificate {
				t.EKCertificate[i] = r.bytes()
			}
		default:
			r.odd = true
		}
	})
	return t, !r.odd && len(r.rest) == 0
}

func (v *Values) quick(r *quickReader) {
	r.keys(func(key int) {
		switch key {
		case 1:
			bank := r.head(0)
			v.Bank = Bank(bank)
			r.odd = r.odd || int(v.Bank) != bank
		case 2:
			v.Value = make(map[int][]byte, NumPCRs)
			r.keys(func(i int) { v.Value[i] = r.bytes() })
		default:
			r.odd = true
		}
	})
}

// skip passes over an item of at most that many further levels.
func (r *quickReader) skip(levels int) {
	if levels == 0 || len(r.rest) == 0 {
		r.odd = true
		return
	}
	switch major := r.rest[0] >> 5; major {
	case 0:
		r.head(major)
	case 2, 3:
		r.string(major)
	case 4, 5:
		for range r.few(major) * int(major-3) { // a map's are pairs
			r.skip(levels - 1)
		}
	default:
		r.odd = true
	}
}

// quickItem reads an item of a bundle, the content of which is read by quick or not.
func quickItem(raw []byte) (it item, rest []byte, ok bool) {
	r := &quickReader{rest: raw}
	if r.head(4) != 2 {
		return it, raw, false
	}
	it.Type = r.head(0)
	start := len(raw) - len(r.rest)
	r.skip(5)
	if r.odd {
		return item{}, raw, false
	}
	it.Content = raw[start : len(raw)-len(r.rest)]
	return it, r.rest, true
}

// quickText reads a text string, and what follows it.
func quickText(raw []byte) (text string, rest []byte, ok bool) {
	r := &quickReader{rest: raw}
	b := r.string(3)
	return string(b), r.rest, !r.odd
}

// quickBytes reads a byte string and nothing else.
func quickBytes(raw []byte) ([]byte, bool) {
	r := &quickReader{rest: raw}
	b := r.bytes()
	return b, !r.odd && len(r.rest) == 0
}
