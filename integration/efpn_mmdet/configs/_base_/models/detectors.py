# DetectoRS: Cascade R-CNN with switchable atrous convolution and a recursive feature pyramid.
_base_ = ["cascade_rcnn.py"]

model = dict(
    backbone=dict(
        type="DetectoRS_ResNet",
        conv_cfg=dict(type="ConvAWS"),
        sac=dict(type="SAC", use_deform=True),
        stage_with_sac=(False, True, True, True),
        output_img=True,
    ),
    neck=dict(
        type="RFP",
        rfp_steps=2,
        aspp_out_channels=64,
        aspp_dilations=(1, 3, 6, 1),
        rfp_backbone=dict(
            type="DetectoRS_ResNet",
            rfp_inplanes=256,
            depth=50,
            num_stages=4,
            out_indices=(0, 1, 2, 3),
            frozen_stages=1,
            norm_cfg=dict(type="BN", requires_grad=True),
            norm_eval=True,
            conv_cfg=dict(type="ConvAWS"),
            sac=dict(type="SAC", use_deform=True),
            stage_with_sac=(False, True, True, True),
            pretrained="torchvision://resnet50",
            style="pytorch",
        ),
    ),
)
