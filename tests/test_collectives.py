"""Reading compiled programs: replica groups in all forms, loops, starts and ends; programs as XLA prints them."""

import pytest

from scaling.compiled import collectives
from scaling.compiled.replica_groups import axes_of, replica_groups

MESH = {"data": 2, "fsdp": 2, "tensor": 2}


@pytest.mark.parametrize(
    ("text", "groups", "axes"),
    [
        ("{{0,1},{2,3},{4,5},{6,7}}, dimensions={0}", [[0, 1], [2, 3], [4, 5], [6, 7]], ("tensor",)),
        ("{}, to_apply=%add", [list(range(8))], ("data", "fsdp", "tensor")),
        ("[4,2]<=[8], x", [[0, 1], [2, 3], [4, 5], [6, 7]], ("tensor",)),
        ("[4,2]<=[2,4]T(1,0)", [[0, 4], [1, 5], [2, 6], [3, 7]], ("data",)),
        ("[4,2]<=[2,2,2]T(0,2,1)", [[0, 2], [1, 3], [4, 6], [5, 7]], ("fsdp",)),
        ("mesh['a'=2,'b'=4] {'b'}, y", [[0, 1, 2, 3], [4, 5, 6, 7]], ("fsdp", "tensor")),
        ("mesh['a'=2,'b'=4] {'a'}", [[0, 4], [1, 5], [2, 6], [3, 7]], ("data",)),
        ("mesh['a'=8] {'a':(2)2}", [[0, 2], [1, 3], [4, 6], [5, 7]], ("fsdp",)),
        ("mesh['a'=8] {'a':(1)2}", [[0, 4], [1, 5], [2, 6], [3, 7]], ("data",)),
        ("mesh['a'=2,'b'=4], device_ids=([4,2]T(1,0)) {'a'}", [[0, 1], [2, 3], [4, 5], [6, 7]], ("tensor",)),
        ("mesh['a'=2,'b'=4], device_ids=(0,2,4,6,1,3,5,7) {'a'}", [[0, 1], [2, 3], [4, 5], [6, 7]], ("tensor",)),
        ("{{0,2},{1,3},{4,6},{5,7}}", [[0, 2], [1, 3], [4, 6], [5, 7]], ("fsdp",)),
    ],
)
def test_groups_in_every_form_and_the_axes_that_they_lie_along(
    text: str, groups: list[list[int]], axes: tuple[str, ...]
) -> None:
    found = replica_groups(text, 8)
    assert sorted(map(sorted, found)) == groups
    assert axes_of(found, MESH) == axes


def test_an_unknown_form_is_named() -> None:
    with pytest.raises(ValueError, match="unknown form of replica groups: <new>"):
        replica_groups("<new>", 8)


PROGRAM = """HloModule jit_step, is_scheduled=true

%add (a: f32[], b: f32[]) -> f32[] {
  %a = f32[] parameter(0)
  %b = f32[] parameter(1)
  ROOT %sum = f32[] add(%a, %b)
}

%inner.cond (p: (s32[], bf16[4,8])) -> pred[] {
  %p = (s32[]{:T(128)}, bf16[4,8]{1,0:T(8,128)(2,1)}) parameter(0)
  %i = s32[] get-tuple-element(%p), index=0
  %n = s32[] constant(7)
  ROOT %lt = pred[] compare(%i, %n), direction=LT
}

%start (x: bf16[4,8]) -> (bf16[4,8], bf16[8,8]) {
  %x = bf16[4,8]{1,0} parameter(0)
  %ag = bf16[8,8]{1,0} all-gather(%x), channel_id=3, replica_groups=[4,2]<=[8], dimensions={0}, frontend_attributes={chain_id="5"}
  ROOT %t = (bf16[4,8], bf16[8,8]) custom-call(%ag), custom_call_target="AsyncCollectiveStart"
}

%done (x: bf16[4,8]) -> bf16[8,8] {
  %x = bf16[4,8]{1,0} parameter(0)
  ROOT %ag.1 = bf16[8,8]{1,0} all-gather(%x), channel_id=3, replica_groups=[4,2]<=[8], dimensions={0}, frontend_attributes={chain_id="5"}
}

%inner.body (p: (s32[], bf16[4,8])) -> (s32[], bf16[4,8]) {
  %p = (s32[], bf16[4,8]{1,0}) parameter(0)
  %i = s32[] get-tuple-element(%p), index=0
  %x = bf16[4,8]{1,0} get-tuple-element(%p), index=1
  %f = (bf16[4,8], bf16[8,8]) fusion(%x), kind=kCustom, calls=%start
  %g = bf16[8,8] fusion(%x), kind=kCustom, calls=%done
  ROOT %out = (s32[], bf16[4,8]) tuple(%i, %x)
}

%outer.body (p: (s32[], bf16[4,8])) -> (s32[], bf16[4,8]) {
  %p = (s32[], bf16[4,8]{1,0}) parameter(0)
  %x = bf16[4,8]{1,0} get-tuple-element(%p), index=1
  %one = s32[] constant(1)
  %first = (s32[], bf16[4,8]) tuple(%one, %x)
  ROOT %while.1 = (s32[], bf16[4,8]) while(%first), condition=%inner.cond, body=%inner.body
}

ENTRY %main (x: bf16[4,8], y: f32[10], z: f32[2]) -> (s32[], bf16[4,8]) {
  %x = bf16[4,8]{1,0} parameter(0)
  %y = f32[10]{0} parameter(1)
  %z = f32[2]{0} parameter(2)
  %zero = s32[] constant(0)
  %s = (f32[10]{0}, f32[2]{0}) all-reduce-start(%y, %z), channel_id=3, replica_groups={{0,2},{1,3},{4,6},{5,7}}, to_apply=%add, metadata={op_name="jit(step)/psum"}
  %d = (f32[10]{0}, f32[2]{0}) all-reduce-done(%s)
  %alone = f32[10]{0} all-reduce(%y), replica_groups={{0},{1},{2},{3},{4},{5},{6},{7}}, to_apply=%add
  %cp = f32[10]{0} collective-permute(%y), channel_id=9, source_target_pairs={{0,4},{4,0},{1,5},{5,1}}
  %t = (s32[], bf16[4,8]) tuple(%zero, %x)
  ROOT %while.2 = (s32[], bf16[4,8]) while(%t), condition=%unread, body=%outer.body, backend_config={"known_trip_count":{"n":"3"},"known_init_step":{"init":"0","step":"1"}}
}
"""  # noqa: E501


def test_loops_multiply_starts_and_chains_count_once_and_devices_alone_do_not() -> None:
    found = [(c.kind, c.axes, c.group, c.bytes, c.loops, c.times, c.sent) for c in collectives(PROGRAM, MESH)]
    assert found == [
        ("all-reduce", ("fsdp",), 2, 48, (), 1, 48.0),
        ("collective-permute", ("data",), 2, 40, (), 1, 40.0),
        ("all-gather", ("tensor",), 2, 128, (3, 6), 18, 64.0),  # the inner counter begins at 1
    ]


def test_a_collective_that_is_hidden_behind_a_loop_is_made_as_often_as_it_begins() -> None:
    """As a TPU's pipeline gathers its head behind a loop over layers: the start before it, a step of it within."""
    gather = (
        'all-gather(%x), channel_id=4, replica_groups=[1,8]<=[8], dimensions={0}, frontend_attributes={chain_id="7"}'
    )
    given = "  %x = bf16[4,8]{1,0} parameter(0)\n"
    step = f"(x: bf16[4,8]) -> bf16[32,8] {{\n{given}  ROOT %hidden = bf16[32,8]{{1,0}} {gather}\n}}\n"
    program = PROGRAM.replace("%inner.body (p", f"%begin {step}\n%further {step}\n%inner.body (p")
    for before, called in (("  %f = ", "further"), ("  %first = ", "begin"), ("  ROOT %while.1", "further")):
        fusion = f"  %{called}{len(before)} = bf16[32,8] fusion(%x), kind=kCustom, calls=%{called}\n"
        program = program.replace(before, fusion + before)
    found = [(c.loops, c.times, c.bytes) for c in collectives(program, MESH) if c.group == 8]
    assert found == [((3,), 3, 512)]
    assert len(collectives(program, MESH)) == len(collectives(PROGRAM, MESH)) + 1


def test_an_all_reduce_that_a_fusion_gives_a_slice_of_is_a_reduce_scatter() -> None:
    """As a TPU makes it, which writes it so; outside of a fusion every device has the whole sum."""
    scatter = """%all-reduce-scatter (x: f32[40]) -> f32[20] {
  %x = f32[40]{0} parameter(0)
  %i = s32[] constant(20)
  %sum = f32[40]{0} all-reduce(%x), channel_id=8, replica_groups={{0,2},{1,3},{4,6},{5,7}}, to_apply=%add
  ROOT %part = f32[20]{0} dynamic-slice(%sum, %i), dynamic_slice_sizes={20}
}

"""
    call = "  %w = f32[40]{0} parameter(3)\n  %r = f32[20] fusion(%w), kind=kCustom, calls=%all-reduce-scatter\n"
    fused = PROGRAM.replace("ENTRY", scatter + "ENTRY").replace("  %zero =", call + "  %zero =")
    found = [(c.kind, c.axes, c.bytes, c.sent) for c in collectives(fused, MESH) if c.bytes == 160]
    assert found == [("reduce-scatter", ("fsdp",), 160, 80.0)]
    alone = scatter.replace("%all-reduce-scatter", "ENTRY %main")
    assert [c.kind for c in collectives("HloModule x\n\n" + alone, MESH)] == ["all-reduce"]


SLICES = """HloModule jit_step, is_scheduled=true

ENTRY %main (x: bf16[32,8]) -> bf16[32,8] {
  %x = bf16[32,8]{1,0} parameter(0)
  %after = token[] after-all()
  %send = (bf16[32,8]{1,0}, u32[], token[]) send(%x, %after), channel_id=4, is_host_transfer=true, frontend_attributes={_xla_host_transfer_handler_name="xla_megascale_runtime",_xla_megascale_reduce_operation="SUM",_xla_megascale_target="{1:2}x{0:3}",_xla_megascale_transfer_type="ALL_REDUCE"}
  %recv = (bf16[32,8]{1,0}, u32[], token[]) recv(%after), channel_id=4, is_host_transfer=true
  ROOT %sum = bf16[32,8]{1,0} all-reduce(%x), channel_id=5, replica_groups={{0,1},{2,3}}, use_global_device_ids=true, to_apply=%add
}
"""  # noqa: E501


def test_what_is_sent_to_other_slices_lies_along_the_axes_in_which_they_differ() -> None:
    """Of the mesh above in two slices along `fsdp`: the program is of the first, which has places 0, 1, 4 and 5."""
    found = collectives(SLICES, MESH, [[0, 1, 4, 5], [2, 3, 6, 7]])
    assert [(one.kind, one.axes, one.members, one.bytes) for one in found] == [
        ("all-reduce", ("fsdp",), (0, 2), 512),
        ("all-reduce", ("tensor",), (0, 1), 512),
    ]


def test_a_loop_of_unknown_length_around_a_collective_is_named() -> None:
    with pytest.raises(ValueError, match=r"ag is in a loop whose number of steps the program does not say"):
        collectives(PROGRAM.replace("direction=LT", "direction=NE"), MESH)
