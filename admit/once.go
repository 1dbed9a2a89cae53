package admit

// Once returns a state that reads each thing of s once, for as long as s stands for one
// moment: a judgement asks for the same enrolment, terms and settings several times,
// and many judgements for the same terms. It is not safe for concurrent use.
func Once(s State) State {
	return &once{State: s, judged: map[string]Value{}, founding: map[string]string{}, enrolled: map[string]enrolledOnce{}}
}

type once struct {
	State
	judged   map[string]Value
	founding map[string]string
	enrolled map[string]enrolledOnce
	clock    uint64
	clocked  bool
}

type enrolledOnce struct {
	enrolment Enrolment
	version   uint64
}

// Judged implements State.
func (o *once) Judged(key string) (Value, error) {
	if v, ok := o.judged[key]; ok {
		return v, nil
	}
	v, err := o.State.Judged(key)
	if err == nil {
		o.judged[key] = v
	}
	return v, err
}

// Founding implements State.
func (o *once) Founding(setting string) (string, error) {
	if v, ok := o.founding[setting]; ok {
		return v, nil
	}
	v, err := o.State.Founding(setting)
	if err == nil {
		o.founding[setting] = v
	}
	return v, err
}

// Clock implements State.
func (o *once) Clock() (uint64, error) {
	if o.clocked {
		return o.clock, nil
	}
	c, err := o.State.Clock()
	o.clock, o.clocked = c, err == nil
	return c, err
}
