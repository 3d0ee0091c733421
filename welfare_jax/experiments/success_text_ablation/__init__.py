"""The main job on bases that did and did not read accounts of success, failure and feeling."""
