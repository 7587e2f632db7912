# DetectoRS with NWD as its paper says: the RPN's loss is 1 - NWD of decoded boxes.
_base_ = ["detectors_nwd_logged_aitod.py"]

model = dict(rpn_head=dict(reg_decoded_bbox=True))
